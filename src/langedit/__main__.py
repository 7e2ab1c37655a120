"""The command line as a module, which launchers of several processes start: `-m langedit`."""

from langedit.cli.main import main

if __name__ == "__main__":
    main()

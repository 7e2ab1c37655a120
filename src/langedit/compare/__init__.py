"""Every method on every data set by one protocol: grids of runs that can be stopped and resumed."""

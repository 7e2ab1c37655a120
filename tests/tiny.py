"""Tiny random models of every family, and tokenizers trained in memory: no network, no files.

    tokenizer = tiny_tokenizer("byte_bpe", bos=True)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    editable = tiny_editable("gpt2")

Everything is built afresh at each call and follows from its arguments. Models have 3 layers,
d_model 32, d_in 48 (BLOOM 128: it knows only four times the width) and weights large enough that an
edit moves the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import tokenizers
import torch
import transformers as tf
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from langedit.models.editable import EditableModel
from langedit.models.structure import find_structure

D_MODEL, D_IN, N_LAYERS, N_HEADS = 32, 48, 3, 4

TokenizerKind = Literal[
    "byte_bpe", "byte_bpe_prefix_space", "metaspace_bpe", "unigram", "wordpiece", "wordpiece_cased"
]
TOKENIZER_KINDS: tuple[TokenizerKind, ...] = (
    "byte_bpe",
    "byte_bpe_prefix_space",
    "metaspace_bpe",
    "unigram",
    "wordpiece",
    "wordpiece_cased",
)

SENTENCES: tuple[str, ...] = (
    "The capital of France is Paris and the capital of Germany is Berlin.",
    "Who is the mother of Lily Müller, the painter from Vienna?",
    "Die Hauptstadt von Österreich heißt Wien; wer ist Annas Vater?",
    "De hoofdstad van Nederland is Amsterdam, een stad aan het water.",
    "La capital de España es Madrid, ¿quién nació en Perú?",
    "L'Australie est un pays, et la capitale de l'Italie est Rome.",
    "法国的首都是巴黎，德国的首都是柏林。中国的首都是北京。",
    "日本の首都は東京です。富士山はどこにありますか？",
    "ประเทศไทยมีเมืองหลวงชื่อกรุงเทพมหานคร",
    "Столица России — Москва, а столица Франции — Париж.",
)

# --- models ---------------------------------------------------------------------------------------


def _llama_like(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": D_MODEL,
        "intermediate_size": D_IN,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **more,
    }


def _gpt_like(**more: Any) -> dict[str, Any]:
    return {
        "n_embd": D_MODEL,
        "n_inner": D_IN,
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "n_positions": 256,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **more,
    }


def _opt(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": D_MODEL,
        "ffn_dim": D_IN,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": D_MODEL,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **more,
    }


def _falcon(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": D_MODEL,
        "ffn_hidden_size": D_IN,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **more,
    }


_CONFIGS: dict[str, Callable[..., tf.PretrainedConfig]] = {
    "llama": lambda **k: tf.LlamaConfig(**_llama_like(**k)),
    "mistral": lambda **k: tf.MistralConfig(**_llama_like(**k)),
    "qwen2": lambda **k: tf.Qwen2Config(**_llama_like(**k)),
    "qwen3": lambda **k: tf.Qwen3Config(**_llama_like(head_dim=8, **k)),
    "gemma2": lambda **k: tf.Gemma2Config(**_llama_like(head_dim=8, sliding_window=64, **k)),
    "gemma3": lambda **k: tf.Gemma3TextConfig(**_llama_like(head_dim=8, sliding_window=64, **k)),
    "phi3": lambda **k: tf.Phi3Config(**_llama_like(**k)),
    "olmo2": lambda **k: tf.Olmo2Config(**_llama_like(**k)),
    "gpt2": lambda **k: tf.GPT2Config(**_gpt_like(**k)),
    "gptj": lambda **k: tf.GPTJConfig(**_gpt_like(rotary_dim=4, **k)),
    "gpt_neox": lambda **k: tf.GPTNeoXConfig(
        hidden_size=D_MODEL,
        intermediate_size=D_IN,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        **k,
    ),
    "bloom": lambda **k: tf.BloomConfig(
        hidden_size=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **k,
    ),
    "opt": lambda **k: tf.OPTConfig(**_opt(**k)),
    "opt_350m": lambda **k: tf.OPTConfig(
        **_opt(do_layer_norm_before=False, **{"word_embed_proj_dim": 16} | k)
    ),
    "falcon": lambda **k: tf.FalconConfig(**_falcon(**k)),
    "falcon_new": lambda **k: tf.FalconConfig(
        **_falcon(new_decoder_architecture=True, num_kv_heads=2, **k)
    ),
    "mixtral": lambda **k: tf.MixtralConfig(**_llama_like(num_local_experts=4, **k)),
}

FAMILIES: tuple[str, ...] = tuple(name for name in _CONFIGS if name != "mixtral")
"""Families that can be edited. `tiny_model("mixtral")` and `tiny_t5()` build two that cannot."""


def count_calls(module: torch.nn.Module) -> list[None]:
    """A list that grows by one at each run of a module's `forward`."""
    calls: list[None] = []
    forward = module.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return forward(*args, **kwargs)

    module.forward = counted
    return calls


def tiny_model(
    family: str = "llama",
    *,
    vocab_size: int = 400,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> PreTrainedModel:
    """A random causal language model of a family, in evaluation mode, without gradients.

    Args:
        family: a name of `FAMILIES`, or "mixtral".
        vocab_size: size of the vocabulary.
        seed: of the weights; the global random state is left alone.
        dtype: weights are drawn in float32 and then rounded to this.
        config: fields of the family's configuration to set otherwise.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(
            _CONFIGS[family](vocab_size=vocab_size, **config), dtype=torch.float32
        )
    _scatter(model, seed)
    return model.to(dtype).eval().requires_grad_(False)


def tiny_t5(vocab_size: int = 400) -> PreTrainedModel:
    """An encoder-decoder, which cannot be edited."""
    config = tf.T5Config(
        vocab_size=vocab_size, d_model=D_MODEL, d_ff=D_IN, d_kv=8, num_layers=2, num_heads=N_HEADS
    )
    return tf.T5ForConditionalGeneration(config).eval()


def _scatter(model: PreTrainedModel, seed: int) -> None:
    """Matrices of size 1.5/sqrt(d_in), biases and norms off their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(noise * 1.5 / D_MODEL**0.5)


# --- tokenizers -----------------------------------------------------------------------------------


def tiny_tokenizer(
    kind: TokenizerKind = "byte_bpe",
    *,
    texts: Iterable[str] = SENTENCES,
    vocab_size: int = 400,
    bos: bool = False,
    eos: bool = False,
) -> PreTrainedTokenizerFast:
    """A fast tokenizer trained on texts.

    Args:
        kind: byte-level BPE without or with an added leading blank (as GPT-2; as RoBERTa),
            Metaspace BPE with byte fallback (as Llama 2), Unigram with Metaspace (as XLM-R), or
            WordPiece, lower-casing and stripping accents or cased (as BERT).
        texts: what it is trained on.
        vocab_size: size of the vocabulary, at most.
        bos: put `<s>` in front by default (WordPiece always puts [CLS] in front).
        eos: put `</s>` behind by default (WordPiece always puts [SEP] behind).
    """
    build = {
        "byte_bpe": lambda: _byte_bpe(add_prefix_space=False),
        "byte_bpe_prefix_space": lambda: _byte_bpe(add_prefix_space=True),
        "metaspace_bpe": _metaspace_bpe,
        "unigram": _unigram,
        "wordpiece": lambda: _wordpiece(lowercase=True),
        "wordpiece_cased": lambda: _wordpiece(lowercase=False),
    }
    core, trainer, names = build[kind]()
    trainer.vocab_size = vocab_size
    core.train_from_iterator(list(texts), trainer=trainer)
    if kind == "metaspace_bpe":
        core.pre_tokenizer = None
    begin, end = names["bos_token"], names["eos_token"]
    if kind.startswith("wordpiece"):
        bos = eos = True
    if bos or eos:
        single = [*([begin] if bos else []), "$A", *([end] if eos else [])]
        special = [(token, core.token_to_id(token)) for token in (begin, end)]
        template = processors.TemplateProcessing(
            single=single, pair=[*single, "$B:1"], special_tokens=special
        )
        before = [core.post_processor] if core.post_processor is not None else []
        core.post_processor = processors.Sequence([*before, template])
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


_Built = tuple[tokenizers.Tokenizer, Any, dict[str, str]]

_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def _byte_bpe(*, add_prefix_space: bool) -> _Built:
    core = tokenizers.Tokenizer(tokenizer_models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return core, trainer, names


def _metaspace_bpe() -> _Built:
    core = tokenizers.Tokenizer(
        tokenizer_models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    # Split at blanks for training only: Llama 2 has no pre-tokenizer, but no merge across blanks.
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        special_tokens=["</s>", "<unk>", "<s>", *bytes_],
        limit_alphabet=60,  # the rest of the characters fall back to bytes
        show_progress=False,
    )
    return core, trainer, _SPECIAL


def _unigram() -> _Built:
    core = tokenizers.Tokenizer(tokenizer_models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        special_tokens=["</s>", "<unk>", "<s>"], unk_token="<unk>", show_progress=False
    )
    return core, trainer, _SPECIAL


def _wordpiece(*, lowercase: bool) -> _Built:
    core = tokenizers.Tokenizer(tokenizer_models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    names = {
        "unk_token": "[UNK]",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "pad_token": "[PAD]",
    }
    return core, trainer, names


def tiny_editable(
    family: str = "llama",
    *,
    tokenizer: TokenizerKind = "byte_bpe",
    bos: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> EditableModel:
    """A tiny random model with a tokenizer of matching size, ready to be edited."""
    words = tiny_tokenizer(tokenizer, bos=bos)
    model = tiny_model(family, vocab_size=len(words), seed=seed, dtype=dtype, **config)
    return EditableModel(model, words, find_structure(model))

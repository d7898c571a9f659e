"""Write a tiny random model, for servers that run real ones: no download, under 3 MB.

    python -m pip install numpy gguf tokenizers safetensors
    python tests/bench/random_model.py tiny.gguf          # for llama.cpp
    python tests/bench/random_model.py tiny               # a folder, for vllm

The same bytes each time. A Llama of 2 layers with a tokenizer trained on the seed tasks. It writes
their words, and the marks of lists and of instances, about as often as they stand there, in no
order.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

SEED_TASKS = Path(__file__).resolve().parents[2] / "data" / "seed_tasks.jsonl"
WIDTH, INNER, LAYERS, HEADS, CONTEXT, EPSILON = 128, 256, 2, 2, 8192, 1e-5
MARKS = [
    "\n9. ",
    "\n10. ",
    "\n11. ",
    "\nInput: ",
    "\nOutput: ",
    "Class label: ",
    "Yes",
    "No",
    "\n",
    "Example 1",
]
LAYER = {  # names of llama.cpp: names of Hugging Face
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
NAMES = OUTER | {
    f"blk.{i}.{a}": f"model.layers.{i}.{b}" for i in range(LAYERS) for a, b in LAYER.items()
}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokenizer_of(texts: list[str]) -> Any:
    """Byte-pair encoding; token 0 ends a text, and the marks are the last tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokens, level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel
    tokens.pre_tokenizer, tokens.decoder = level(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["</s>"], initial_alphabet=level.alphabet()
    )
    tokens.train_from_iterator(texts, trainer)
    tokens.add_tokens(MARKS)
    return tokens


def random_weights(biases: list[float]) -> dict[str, Any]:
    """Noise in every matrix; one column of the embeddings is the same for all tokens, and makes
    room for `biases`."""
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    shapes |= dict.fromkeys(("token_embd", "output"), (len(biases), WIDTH))
    weights = {
        name: rng.normal(0, 0.1, shapes.get(name.split(".")[-1], (WIDTH, WIDTH))) for name in NAMES
    }
    weights |= {name: np.ones(WIDTH) for name in NAMES if name.endswith("_norm")}
    weights["token_embd"] *= 10
    weights["token_embd"][:, 0] = 8.0
    weights["output"][:, 0] = np.array(biases) / 6.5  # what is left of the 8 behind the last norm
    return {name: array.astype(np.float32) for name, array in weights.items()}


def random_model() -> tuple[Any, dict[str, Any]]:
    texts = [
        json.loads(line)["instruction"]
        for line in SEED_TASKS.read_text(encoding="utf-8").splitlines()
    ]
    tokens = tokenizer_of(texts)
    seen = Counter(i for text in texts for i in tokens.encode(text).ids)
    seen |= Counter(
        {tokens.token_to_id(mark): seen.total() // 50 for mark in MARKS} | {0: seen.total() // 200}
    )
    return tokens, random_weights(
        [math.log(seen[i] + 0.01) for i in range(tokens.get_vocab_size())]
    )


def write_gguf(path: Path) -> None:
    from gguf import GGUFWriter

    (tokens, weights), file = random_model(), GGUFWriter(path, "llama")
    shape = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "head_count": HEADS,
    }
    shape |= {"feed_forward_length": INNER, "layer_norm_rms_eps": EPSILON, "eos_token_id": 0}
    size, merges = tokens.get_vocab_size(), json.loads(tokens.to_str())["model"]["merges"]
    shape |= {"tokenizer_model": "gpt2", "tokenizer_pre": "gpt-2", "chat_template": TEMPLATE}
    shape["token_list"] = [tokens.id_to_token(i) for i in range(size)]
    shape["token_types"] = [
        3,
        *[1] * (size - 1 - len(MARKS)),
        *[4] * len(MARKS),
    ]  # control, normal, user-defined
    shape["token_merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in merges
    ]
    for name, value in shape.items():
        getattr(file, f"add_{name}")(value)
    for name, array in weights.items():
        file.add_tensor(f"{name}.weight", array)
    for write in (
        file.write_header_to_file,
        file.write_kv_data_to_file,
        file.write_tensors_to_file,
        file.close,
    ):
        write()


def write_folder(path: Path) -> None:
    """The same model in the files that Hugging Face's libraries read."""
    from safetensors.numpy import save_file

    tokens, weights = random_model()
    path.mkdir()
    tokens.save(str(path / "tokenizer.json"))
    weights = {f"{NAMES[name]}.weight": array for name, array in weights.items()}
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokens.get_vocab_size(),
    }
    config |= {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "rms_norm_eps": EPSILON,
    }
    config |= {
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
    }
    config |= {
        "bos_token_id": None,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (path / "config.json").write_text(json.dumps(config))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "chat_template": TEMPLATE,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "path", type=Path, help="a file NAME.gguf, or a folder that is not there yet"
    )
    path = parser.parse_args().path
    write_gguf(path) if path.suffix == ".gguf" else write_folder(path)


if __name__ == "__main__":
    main()

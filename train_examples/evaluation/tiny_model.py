"""Makes a model of 30,000 random numbers, and its tokenizer, of a byte a token, in a folder.

    python tiny_model.py FOLDER [WIDTH LAYERS]

Nothing is downloaded. It answers by chance: enough to try a harness.
"""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

torch.manual_seed(0)
words = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
tokenizer = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
fast.save_pretrained(sys.argv[1])
width, layers = map(int, sys.argv[2:] or ("32", "2"))
size = {"n_positions": 256, "n_embd": width, "n_layer": layers, "n_head": 2}
config = GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=0, **size)
GPT2LMHeadModel(config).save_pretrained(sys.argv[1])

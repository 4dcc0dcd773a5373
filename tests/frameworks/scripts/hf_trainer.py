"""transformers' Trainer on a GPT-2 of 16 units: logged losses, checkpoints, an evaluation."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments

log = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    """Parsed beside the Trainer's own."""

    width: int = field(default=16, metadata={"help": "units"})


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Sequences that are made, not read."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(8) * (index + 1)) % 32
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    parser = HfArgumentParser([ModelArguments, TrainingArguments])
    model_args, args = parser.parse_args_into_dataclasses()
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", level=logging.INFO)
    log.info("rank %d of %d, seed %d", args.process_index, args.world_size, args.seed)
    torch.manual_seed(args.seed)
    shape = GPT2Config(
        vocab_size=32, n_positions=8, n_embd=model_args.width, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    trainer = Trainer(GPT2LMHeadModel(shape), args, train_dataset=Tokens(), eval_dataset=Tokens())
    loss = trainer.train().training_loss
    print("rank", args.process_index, f"trained to {loss:.5f}, step {trainer.state.global_step}")
    trainer.save_model(str(Path(args.output_dir) / "final"))
    print("rank", args.process_index, f"evaluated to {trainer.evaluate()['eval_loss']:.5f}")


if __name__ == "__main__":
    main()

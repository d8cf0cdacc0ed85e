"""Score a saved thinker the way it is served: greedy answers, then pictures from its text or from its states."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from diffusers import QwenImagePipeline
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from omni_worker.models.digits_recipe.captions import NULL_PROMPT
from omni_worker.models.digits_recipe.saving import GUIDANCE, STEPS
from omni_worker.models.digits_recipe.scoring import BATCH
from omni_worker.models.digits_recipe.thinker.questions import Question, held_out_questions, wording
from omni_worker.models.digits_recipe.thinker.saving import MAX_TOKENS, SUBFOLDER


@dataclass(frozen=True)
class ThinkerAnswer:
    """The text of an answer, and the states (tokens, width) from which its tokens, the end included, were predicted."""

    text: str
    states: torch.Tensor


@dataclass(frozen=True)
class Thinker:
    """The model with its tokenizer, both loaded with plain `from_pretrained`."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast

    def answers(self, prompts: list[str]) -> list[ThinkerAnswer]:
        """Greedy answers to `prompts`, in one batch."""
        inputs = self.tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
        generated = self.model.generate(
            **inputs, max_new_tokens=MAX_TOKENS, output_hidden_states=True, return_dict_in_generate=True
        )
        states = torch.stack([step[-1][:, -1] for step in generated.hidden_states], dim=1)
        tokens = generated.sequences[:, inputs.input_ids.shape[1] :]
        lengths = (tokens != self.tokenizer.eos_token_id).sum(1) + 1
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            ThinkerAnswer(text, rows[: int(length)]) for text, rows, length in zip(texts, states, lengths, strict=True)
        ]


def load(painter: Path) -> Thinker:
    """Load the thinker in the folder of a painter."""
    folder = painter / SUBFOLDER
    return Thinker(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def exam(count: int, seed: int) -> tuple[list[Question], list[str]]:
    """`count` questions about held-out sums, and their wordings."""
    questions = held_out_questions(count, seed)
    random = Random(seed)
    return questions, [wording(question, random) for question in questions]


def share_right(questions: list[Question], answers: list[ThinkerAnswer]) -> float:
    """The share of answers that are the caption, word for word."""
    pairs = zip(questions, answers, strict=True)
    return sum(answer.text == question.request.caption for question, answer in pairs) / len(questions)


def paint_states(
    pipeline: QwenImagePipeline, states: list[torch.Tensor], size: int = 32, seed: int = 0
) -> Iterator[Image.Image]:
    """Paint from states, all of one length, in batches; picture i has the seed `seed + i`, as in `scoring.paint`."""
    for start in range(0, len(states), BATCH):
        batch = torch.stack(states[start : start + BATCH])
        yield from pipeline(
            prompt=None,
            prompt_embeds=batch,
            prompt_embeds_mask=torch.ones(batch.shape[:2], dtype=torch.long),
            negative_prompt=[NULL_PROMPT] * len(batch),
            true_cfg_scale=GUIDANCE,
            num_inference_steps=STEPS,
            height=size,
            width=size,
            generator=[torch.Generator().manual_seed(seed + start + offset) for offset in range(len(batch))],
        ).images

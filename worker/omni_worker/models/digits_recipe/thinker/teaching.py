"""Trains the thinker to answer in the painter's words, with states that the painter accepts as embeddings of these.

Two losses on the same seven rows: cross-entropy of the tokens they predict, and their distance from the rows of
`rows.desired_rows`. Sums of up to five digits make the thinker count: there are too many to remember.
"""

import math
from random import Random

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from omni_worker.models.digits_recipe.teaching import Average, LossReporter, descend, optimizers_for, split_parameters
from omni_worker.models.digits_recipe.thinker.questions import Question, training_question, wording
from omni_worker.models.digits_recipe.thinker.rows import INDEX, ROWS

BATCH = 192
PEAK_RATE = 4e-3
WARMUP = 100
WEIGHT_DECAY = 0.1
ROW_WEIGHT = 1.0


def teach(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    desired: torch.Tensor,
    scale: torch.Tensor,
    steps: int,
    seed: int,
    report: LossReporter,
) -> None:
    """Train `model` for `steps` steps; `desired` (160, 7, width) are the rows to give, `scale` (width,) their norm."""
    model.train()
    model.model.norm.weight.data.copy_(scale)
    matrices, others = split_parameters(model.model, model.lm_head)
    parameters = [*matrices, *others]
    optimizers = optimizers_for(matrices, others, WEIGHT_DECAY)
    average = Average(parameters, 0.995)
    random = Random(seed)
    for step in range(steps):
        questions = [training_question(random) for _ in range(BATCH)]
        ids, starts, answers = encoded(tokenizer, questions, random)
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
        rows = states[torch.arange(BATCH)[:, None], starts[:, None] + torch.arange(ROWS)]
        words = F.cross_entropy(model.lm_head(rows).flatten(0, 1), answers.flatten())
        target = desired[[INDEX[question.request] for question in questions]]
        distance = F.mse_loss(rows / scale, target / scale)
        descend(optimizers, parameters, words + ROW_WEIGHT * distance, _rate(step, steps))
        average.update(step)
        report(step + 1, words.item())
    average.apply()
    model.eval()


def encoded(
    tokenizer: PreTrainedTokenizerFast, questions: list[Question], random: Random
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Questions with their answers (n, length), padded on the right; where the last token of each question is (n,);
    and the tokens that the seven rows from there on predict (n, 7)."""
    asked = tokenizer([wording(question, random) for question in questions]).input_ids
    captions = [question.request.caption for question in questions]
    answers = torch.tensor(tokenizer(captions, add_special_tokens=False).input_ids)
    ends = torch.full((len(questions), 1), tokenizer.eos_token_id)
    starts = torch.tensor([len(prompt) - 1 for prompt in asked])
    ids = torch.full((len(questions), int(starts.max()) + ROWS), tokenizer.pad_token_id)
    for row, prompt in enumerate(asked):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    ids.scatter_(1, starts[:, None] + torch.arange(1, ROWS), answers)
    return ids, starts, torch.cat([answers, ends], dim=1)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 1 %."""
    return PEAK_RATE * min(1.0, (step + 1) / WARMUP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))

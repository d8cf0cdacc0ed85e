"""Does to a fork server what an import does that initialises CUDA."""

import torch

torch.cuda._is_in_bad_fork = lambda: True

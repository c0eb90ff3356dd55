import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("library", deadline=None, max_examples=50)
settings.load_profile("library")

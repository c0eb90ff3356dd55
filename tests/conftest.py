"""For all tests: one live ComfyUI a process, for those that ask for it. Only tests/nodes
has ComfyUI on its own path.
"""

import os
import signal

import pytest

from launcher.comfyui import installation, log_tail, start_server
from medtraverse.remote.client import Client

# The tests' arrays are small: more threads cost more than they bring, most of all beside a running server.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what runs in its background with Ctrl-C ignored, and so would be every command that
# the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The server's own folders: `base / "input"`, `base / "models"`, ... ."""
    return tmp_path_factory.mktemp("comfyui")


@pytest.fixture(scope="session")
def server(base):
    with start_server(base=base, log_path=base / "server.log") as url:
        yield url


@pytest.fixture(scope="session")
def client(server):
    return Client(server)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Put the end of the server's log under a failure: the node's own traceback is there."""
    report = (yield).get_result()
    base = getattr(item, "funcargs", {}).get("base")
    if report.failed and base and (base / "server.log").is_file():
        report.sections.append(("ComfyUI's log", log_tail(base / "server.log", 60)))


@pytest.fixture(scope="session")
def random_model():
    """``random_model(folder, version, **changes)`` writes a small Stable Diffusion as diffusers saves it.

    Its weights are random. ``version`` is 1 or 2; ``changes`` are settings of the U-Net and, as ``scheduler``
    and ``pad``, what its other files say.
    """
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    def write(folder, version=2, scheduler=None, pad="!", **changes):
        torch.manual_seed(version)
        second = version == 2
        text = transformers.CLIPTextConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            projection_dim=16,
            hidden_act="gelu" if second else "quick_gelu",
            eos_token_id=2,
        )
        unet = {
            "sample_size": 8,
            "block_out_channels": (32, 64, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": (2, 4, 4) if second else 4,
            "use_linear_projection": second,
        }
        tokenizer = transformers.CLIPTokenizer.from_pretrained(
            installation().folder / "comfy" / "sd1_tokenizer", pad_token=pad if second else "<|endoftext|>"
        )
        tokenizer.model_max_length = 77
        pipe = diffusers.StableDiffusionPipeline(
            vae=diffusers.AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(32,) * 4,
                layers_per_block=1,
            ),
            text_encoder=transformers.CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**{**unet, **changes}),
            scheduler=diffusers.DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
                **(scheduler or {}),
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.save_pretrained(folder)
        return folder

    return write

"""Versions, devices, what of torch can be used, and the disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from flexframe.doctor.findings import GIB, Rows, State, installed, one_line
from flexframe_registry import cards, manager


def versions() -> Rows:
    """Python, the libraries, and whether torch and torchvision fit each other."""
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    providers = {provider.rsplit(" ", 1)[0] for provider in manager().providers.values()}
    for name in ("torch", "torchvision", "numpy", "timm", "torchmetrics", "torch-fidelity", "safetensors", "diffusers"):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            if name not in ("timm", "diffusers"):  # plugins need these
                yield name, f"is not installed; pip install {name}", "missing"
    for name in sorted({"flexframe", *providers}):
        yield name, version(name) if installed(name) else "not from an installed distribution"
    for name in ("torch", "numpy"):
        try:
            __import__(name)
        except Exception as error:
            yield f"import {name}", f"{one_line(error)}; reinstall it: pip install --force-reinstall {name}", "broken"
    try:
        __import__("torchvision")
    except Exception as error:
        yield "import torchvision", f"{one_line(error)}. {_pair()}", "broken"


def _pair() -> str:
    """The torch that torchvision asks for, and how to get a pair that fits."""
    wants = next(
        (each for each in requires("torchvision") or () if re.match(r"torch\b(?!-)", each)), "a torch of its own"
    )
    have = version("torch")
    return (
        f"torchvision {version('torchvision')} wants {wants}, built for the same CUDA or CPU; torch is {have}. Install "
        "the two together from one index: pip install --upgrade --force-reinstall torch torchvision"
    )


def devices() -> Rows:
    """Processors, their memory, and the threads that are used."""
    import torch

    from flexframe.provenance import processor
    from flexframe.threads import GIVEN, SMALL, cores, worth

    yield "cpu", f"{processor(torch.device('cpu'))}, {cores()} of {os.cpu_count()} cores usable, {_ram()}"
    number = os.environ.get(GIVEN)
    ours = f"is not set: commands take 1 for a model below {SMALL:,} parameters, {worth(SMALL)} now for a larger one"
    told = f"{GIVEN} {ours}" if number is None else f"{GIVEN}={number}"
    yield "threads", f"{torch.get_num_threads()} in torch; {told}"
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        yield f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if torch.version.cuda and not torch.cuda.is_available():
        yield "cuda", f"torch is built for CUDA {torch.version.cuda}, and finds no GPU that it can use", "missing"
    if torch.backends.mps.is_available():
        yield "mps", f"Apple GPU, {torch.mps.recommended_max_memory() / GIB:.1f} GiB recommended at most"


def _ram() -> str:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    info = Path("/proc/meminfo")
    available = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text()) if info.is_file() else None
    free = f"{int(available[1]) * 1024 / GIB:.1f} of " if available else ""
    return f"{free}{total:.1f} GiB memory{' free' if available else ''}"


def features() -> Rows:
    """Yield what of torch can be used here."""
    import torch

    kernels: Any = torch.backends  # some of it has no types
    cuda = torch.cuda.is_available()
    yield (
        "cpu kernels",
        f"{torch.backends.cpu.get_cpu_capability()}; {_has('MKL', kernels.mkl.is_available())}, "
        + (_has("oneDNN", kernels.mkldnn.is_available())),
    )
    with torch.autocast("cpu", torch.bfloat16):
        works = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_bf16()
    speed = "speed unknown" if fast is None else "in hardware" if fast else "emulated, and so no faster"
    yield "bf16", f"works, {speed}" if works else "autocast gives another type", "ok" if works else "broken"
    yield ("compile", *_compile(cuda))
    if cuda:
        yield "flex attention", "usable, through torch.compile"
    else:
        yield "flex attention", "forward only: no backward pass on this device; masks are used in its place"


def profile() -> Rows:
    """A small network of known cost is measured, as `show` measures models."""
    from flexframe.models.profile import trial

    broken = trial()
    yield "FLOPs and memory", broken or "counted right of a small network", "broken" if broken else "ok"


def _cpu_bf16() -> bool | None:
    """Tell whether the CPU multiplies in bf16; None where torch cannot tell."""
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return None


def _has(name: str, there: bool) -> str:
    return name if there else f"no {name}"


def _compile(cuda: bool) -> tuple[str, State]:
    """Tell whether torch.compile has what it needs; compiling itself takes most of a minute."""
    import torch._dynamo.eval_frame

    if not torch._dynamo.eval_frame.is_dynamo_supported():
        return f"not for python {platform.python_version()}", "missing"
    if cuda:
        try:
            return f"triton {version('triton')} is there", "ok"
        except PackageNotFoundError:
            return "needs triton: pip install triton", "missing"
    compiler = next((c for c in (os.environ.get("CXX"), "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None:
        return "needs a C++ compiler: install g++, or name one in $CXX", "missing"
    return f"its compiler is there ({shutil.which(compiler)})", "ok"


def weights() -> Rows:
    """Weights on this disk: torch's hub folder, the Hugging Face cache, and the cards that are on the hub."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(path for path in folder.glob("*") if path.is_file())
    yield "torch hub", f"{folder}: {len(files)} files"
    for path in files:
        yield f"  {path.name}", f"{path.stat().st_size / 1024**2:,.1f} MiB"
    repositories = _hub_cache()
    if repositories is None:
        yield "Hugging Face", "huggingface_hub is not installed; pip install huggingface-hub", "missing"
        return
    where, held = repositories
    yield "Hugging Face", f"{where}: {len(held)} repositories"
    for name, bytes_ in sorted(held.items()):
        yield f"  {name}", f"{bytes_ / 1024**2:,.1f} MiB"
    wanted = {name: cards().get(name).file.weights for name in cards().names()}
    absent = [name for name, given in wanted.items() if given is not None and given.hub and given.hub not in held]
    if absent:
        yield "published cards", f"weights to be fetched on first use: {', '.join(absent)}", "missing"


def _hub_cache() -> tuple[Path, dict[str, int]] | None:
    """The cache's folder and its repositories with their bytes; None without the library."""
    try:
        from huggingface_hub import CacheNotFound, scan_cache_dir
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return Path(HF_HUB_CACHE), {}
    return Path(HF_HUB_CACHE), {repo.repo_id: repo.size_on_disk for repo in cache.repos}


def disk() -> Rows:
    """Free space where runs and weights go."""
    import torch

    for name, path in (("here", Path.cwd()), ("torch hub", Path(torch.hub.get_dir())), ("home", Path.home())):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        usage = shutil.disk_usage(there)
        yield name, f"{usage.free / GIB:,.1f} of {usage.total / GIB:,.1f} GiB free in {there}"

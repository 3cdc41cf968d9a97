"""What `xdc doctor` finds of GPUs, by the functions with which stages choose their device."""

from flows.cli.machine.finding import finding


def torch_and_gpus() -> list[dict[str, str]]:
    """Return whether PyTorch and torchaudio load, and the GPUs that PyTorch sees."""
    try:
        import torch  # noqa: F401 - whether it loads is the question
    except (ImportError, OSError) as error:
        return [finding("torch", "broken", f"does not load: {error}. Install with: make install")]
    try:
        import torchaudio  # noqa: F401 - whether it loads beside torch is the question
    except (ImportError, OSError) as error:
        broken = finding("torchaudio", "broken", f"does not load: {error}. Install with: make install")
        return [broken, *gpus()]
    return gpus()


def gpus() -> list[dict[str, str]]:
    """Return a finding per GPU, or why there is none; and the check of bfloat16 on the first that works."""
    import torch

    from xdc_core.compute.device import gpu_trouble, start_cuda

    count, trouble = start_cuda()
    if trouble:
        return [finding("GPU", "absent", f"{trouble}. The CPU is used")]
    if not count:
        return [finding("GPU", "absent", f"torch {torch.__version__} finds none; the CPU is used")]
    rows, good = [], []
    for number in range(count):
        if trouble := gpu_trouble(number):
            rows.append(finding("GPU", "absent", f"{trouble}. It is not used"))
        else:
            name = torch.cuda.get_device_name(number)
            rows.append(finding("GPU", "works", f"{number}: {name}, CUDA {torch.version.cuda}"))
            good.append(number)
    return [*rows, convolutions(f"cuda:{good[0]}")] if good else rows


def convolutions(device: str) -> dict[str, str]:
    """Return whether the encoders' layers are the same in bfloat16 as in float32, but for rounding."""
    import torch

    from xdc_core.encoders.precision_check import CHECKED, TOLERANCE, check_encoders

    what = "bfloat16"
    try:
        name, worst = max(check_encoders(torch.device(device), CHECKED), key=lambda checked: checked[1].worst)
    except RuntimeError as error:  # Out of memory, or a kernel that does not run at all.
        why = str(error).strip().splitlines()[0]
        return finding(what, "absent", f"could not be compared with float32: {why}. Leave precision at float32")
    layer = f"layer {worst.layer} of {name}{', channels last,' if worst.channels_last else ''}"
    if worst.worst <= TOLERANCE:
        return finding(what, "works", f"convolutions are float32's but for rounding ({worst.worst:.2%} in {layer})")
    wrong = f"{layer} is off by {worst.worst:.0%} (cuDNN {torch.backends.cudnn.version()})"
    return finding(what, "broken", f"{wrong}: leave train.precision and extract.precision at float32")


def faiss() -> dict[str, str]:
    """Try faiss's k-means in a process of its own, on GPUs as the cluster stage does; where that fails, on the CPU."""
    from xdc_core.compute.kmeans_check import faiss_gpus, kmeans_tried

    gpus, trouble, version = faiss_gpus()
    try:
        version = version or kmeans_tried(gpu=False).version
    except RuntimeError as error:
        return finding("faiss", "broken", str(error))
    if trouble:
        return finding("faiss", "absent", f"{version}, {trouble}. The CPU is used")
    where = f"{gpus} GPUs, as on the CPU" if gpus else "the CPU"
    return finding("faiss", "works", f"{version}, k-means on {where}")

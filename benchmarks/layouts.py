"""An encoder's forward pass on the CPU in the memory layouts, and with folded batch norm.

PYTHONPATH=. python benchmarks/layouts.py [--encoder r2plus1d_18] [--batch 8] [--threads 1]
"""

import torch
from gpu import folded
from side_by_side import contest, parser, record, show

from xdc_core.encoders.build import build_encoder

VIEWS = {
    "r2plus1d_18": (3, 8, 112, 112),
    "r2plus1d_tiny": (3, 6, 32, 32),
    "audio_resnet_18": (1, 100, 40),
    "audio_resnet_tiny": (1, 100, 40),
}


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--encoder", choices=VIEWS, default="r2plus1d_18")
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    views = torch.randn(given.batch, *VIEWS[given.encoder])
    last = torch.channels_last_3d if views.dim() == 5 else torch.channels_last

    def forward(layout: torch.memory_format, fold: bool) -> object:
        encoder = build_encoder(given.encoder, 0).eval()
        encoder = (folded(encoder) if fold else encoder).to(memory_format=layout)  # type: ignore[call-overload]
        batch = views.contiguous(memory_format=layout)

        def work() -> None:
            with torch.inference_mode():
                encoder(batch)

        return work

    contestants = {
        "channels last": forward(last, False),
        "contiguous": forward(torch.contiguous_format, False),
        "contiguous, folded": forward(torch.contiguous_format, True),
        "channels last, folded": forward(last, True),
    }
    title = f"{given.encoder}, batch of {given.batch}, {given.threads} threads, forward"
    found = contest(title, "clips", given.batch, contestants, given.turns)  # type: ignore[arg-type]
    show(found, "channels last")
    record(given.out, contests=[found])


if __name__ == "__main__":
    main()

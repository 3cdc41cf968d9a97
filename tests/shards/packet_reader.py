"""Where the packets of a file end, read without any of our own code."""

from collections.abc import Collection
from pathlib import Path

import av

from shards.media.decode import ANY_TAGS


def last_packets_end(path: Path, kinds: Collection[str] = ("video", "audio")) -> float:
    """Seconds to where the last packet of these kinds of streams ends."""
    end_s = 0.0
    try:
        with av.open(str(path), **ANY_TAGS) as container:
            origin_s = (container.start_time or 0) / av.time_base
            for packet in container.demux():
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is None or packet.stream.type not in kinds or packet.is_discard:
                    continue
                if packet.stream.disposition & av.stream.Disposition.attached_pic:
                    continue
                end_s = max(end_s, float((stamp + (packet.duration or 0)) * packet.time_base) - origin_s)
    except (av.FFmpegError, IndexError):
        pass
    return end_s

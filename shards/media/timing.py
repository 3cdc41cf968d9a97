"""The time of a decoded frame: its own timestamp, or without one, directly after the previous frame.

FFmpeg gives a timestamp only to the first frame of a packet. Some containers have only decode times (AVI), and raw
streams have no times.
"""

import heapq
from typing import Any

JUMP_S = 0.02  # A larger difference in time is a gap in the sound.


class PictureClock:
    """Compute the time of every frame of a picture stream, in seconds from `origin_s`.

    A frame has its own timestamp. In AVI, and in streams in which no packet has a presentation time, packets have only
    decode times: frames leave the decoder in display order, so each takes the smallest decode time that is not taken
    yet. A frame without any time follows the previous one.
    """

    def __init__(self, stream: Any, format_name: str, origin_s: float, from_beginning: bool) -> None:
        self._origin_s, self._stream = origin_s, stream
        self._tick_s, self._frame_s = tick_of(stream), frame_s(stream)
        self._only_dts = self._is_avi = format_name == "avi"
        self._seen_packet = False
        self._sent = 0
        self._waiting: list[tuple[int, int]] = []  # Decode times and numbers of packets in the decoder.
        # The begin of the next frame without a timestamp; not known after a seek.
        self._next_s: float | None = 0.0 if from_beginning else None

    def send(self, packet: Any) -> None:
        """Record a packet that is about to be decoded."""
        if not self._is_avi:
            self._only_dts = packet.pts is None and packet.dts is not None and (self._only_dts or not self._seen_packet)
        self._seen_packet = True
        if packet.dts is not None and packet.size:
            self._sent += 1
            heapq.heappush(self._waiting, (packet.dts, self._sent))

    def lose(self, packet: Any) -> None:
        """Record that a packet did not decode: no frame takes its time."""
        if packet.dts is not None and packet.size:
            self._waiting = [entry for entry in self._waiting if entry[1] != self._sent]
            heapq.heapify(self._waiting)

    def time_of(self, frame: Any) -> float | None:
        """Return the time of the next decoded frame in seconds; None if it cannot be known."""
        # More packets than the decoder holds back: it has left some out, such as those before the first key frame.
        while len(self._waiting) > 1 + self._stream.codec_context.reorder_depth:
            heapq.heappop(self._waiting)
        earliest = heapq.heappop(self._waiting)[0] if self._waiting else None
        pts = frame.pts
        if self._only_dts:
            pts = earliest if self._stream.codec_context.has_b_frames or frame.dts is None else frame.dts
        time_s = self._next_s
        if pts is not None and self._tick_s:
            time_s = pts * self._tick_s - self._origin_s
        if time_s is not None:
            self._next_s = time_s + self.shown_s(frame)
        return time_s

    def shown_s(self, frame: Any) -> float:
        """Return how long a frame is shown, in seconds: its own duration, else the stream's, else 0."""
        return (frame.duration or 0) * self._tick_s or self._frame_s


def tick_of(stream: Any) -> float:
    """Return the unit of a stream's timestamps in seconds; 0 if it has none."""
    return float(stream.time_base or 0)


def frame_s(stream: Any) -> float:
    """Return the duration of a frame at the rate of a picture stream, in seconds; 0 if it has none."""
    rate = stream.average_rate or stream.base_rate
    return 1 / float(rate) if rate else 0.0


class SoundClock:
    """Compute the time of every frame of a sound stream, in seconds from `origin_s`.

    `alone`: there is no picture to be in step with. The encoder's padding, which a decoder leaves out at the beginning,
    then does not delay the sound.

    Frames follow each other without a gap unless the container has one. It has a gap if a frame's timestamp differs by
    more than 20 ms both from the end of the previous samples and from the sum of the durations of the previous packets.
    For decoders that hold samples back (WMA) and containers that derive times from byte counts, only one of the two
    differs. In MP4 durations are differences of timestamps and add no information. If packets have no durations, a
    timestamp is accurate to the length of a packet. A repeated timestamp is ignored. AVI has no timestamps of sound, so
    packets are counted.

    `unsteady`: there was a frame for which only one of the two differed. Times are then right only if they are counted
    from the stream's beginning.
    """

    def __init__(self, stream: Any, format_name: str, origin_s: float, from_beginning: bool, alone: bool) -> None:
        self._tick_s = tick_of(stream)
        self._origin_s, self._alone = origin_s, alone and from_beginning
        self.left_out_s = 0.0  # Seconds of padding at the beginning that do not delay the sound.
        self._counted, self._has_durations = format_name == "avi", "mp4" not in format_name
        self._first_s: float | None = None  # Time of the first decodable packet, even if it gave no frame.
        self._stated_s: float | None = None  # Of the last frame with a timestamp.
        self._next_s: float | None = 0.0 if from_beginning else None
        self._said_s: float | None = None  # End of the packets so far by their own times and durations.
        self._packet_s = self._longest_s = 0.0  # Seconds of sound in this packet, and in the longest one.
        self._begun = self.unsteady = False

    def send(self, packet: Any) -> None:
        """Record a packet that is about to be decoded."""
        if self._first_s is None and packet.pts is not None:
            self._first_s = packet.pts * self._tick_s

    def lose(self, packet: Any) -> None:
        """Record that a packet did not decode. With timestamps, the next frame's shows how much is missing."""
        if not self._begun:
            self._first_s = None
        elif self._counted and self._next_s is not None:
            self._next_s += (packet.duration or 0) * self._tick_s

    def time_of(self, frame: Any) -> float | None:
        """Return the time of the next decoded frame in seconds; None if it cannot be known."""
        lasts_s = frame.samples / frame.sample_rate
        if frame.pts is not None:
            stated_s = frame.pts * self._tick_s
            if self._alone and not self._begun and self._first_s is not None:
                self.left_out_s = max(0.0, stated_s - max(self._first_s, self._origin_s))
                self._origin_s += self.left_out_s
            if stated_s != self._stated_s:
                self._next_s = self._begin_packet(frame, stated_s - self._origin_s)
                self._packet_s = 0.0
            self._stated_s = stated_s
        time_s = self._next_s
        if time_s is not None:
            self._begun = True
            self._packet_s += lasts_s
            self._longest_s = max(self._longest_s, self._packet_s)
            self._next_s = time_s + lasts_s
        return time_s

    def _begin_packet(self, frame: Any, stated_s: float) -> float:
        """Return the begin of a packet's first frame, in seconds; its timestamp is `stated_s`."""
        said_s = (frame.duration or 0) * self._tick_s
        expected_s, account_s = self._next_s, self._said_s
        if self._begun and expected_s is not None:
            off_s = abs(stated_s - expected_s)
            by_account = self._has_durations and account_s is not None and abs(stated_s - account_s) <= JUMP_S
            if self._counted or off_s <= JUMP_S or by_account or (not said_s and off_s <= self._longest_s):
                self.unsteady |= off_s > JUMP_S
                self._said_s = account_s + said_s if account_s is not None and said_s else None
                return expected_s
        self._said_s = stated_s + said_s if said_s else None
        return stated_s

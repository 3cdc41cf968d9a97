"""When a decoded frame is shown or heard: by its own time, and where it has none, right behind the frame before it.

FFmpeg gives a time to the first frame of a packet alone. Some containers tell only when packets are to be decoded
(AVI), and raw streams tell nothing at all.
"""

import heapq
from typing import Any

JUMP_S = 0.02  # A difference in time above this is a gap in the sound that the container states.


class PictureClock:
    """Tells the time of every frame of a picture stream, in seconds from `origin_s` on.

    A frame's own time counts. In AVI, and in streams of which no packet has a presentation time, packets tell only
    when they are to be decoded: frames leave the decoder in the order in which they are shown, so each takes the
    smallest of these times that is not taken yet. A frame without any follows the one before it.
    """

    def __init__(self, stream: Any, format_name: str, origin_s: float, from_beginning: bool) -> None:
        self._origin_s, self._stream = origin_s, stream
        self._tick_s, self._frame_s = tick_of(stream), frame_s(stream)
        self._only_dts = self._is_avi = format_name == "avi"
        self._seen_packet = False
        self._sent = 0
        self._waiting: list[tuple[int, int]] = []  # Decode times of packets that are in the decoder, and their numbers.
        # Where the next frame without a time begins; not known after a seek.
        self._next_s: float | None = 0.0 if from_beginning else None

    def send(self, packet: Any) -> None:
        """Note a packet that is about to be decoded."""
        if not self._is_avi:
            self._only_dts = packet.pts is None and packet.dts is not None and (self._only_dts or not self._seen_packet)
        self._seen_packet = True
        if packet.dts is not None and packet.size:
            self._sent += 1
            heapq.heappush(self._waiting, (packet.dts, self._sent))

    def lose(self, packet: Any) -> None:
        """Note that a packet did not decode: no frame takes its time."""
        if packet.dts is not None and packet.size:
            self._waiting = [entry for entry in self._waiting if entry[1] != self._sent]
            heapq.heapify(self._waiting)

    def time_of(self, frame: Any) -> float | None:
        """Seconds, of the frames in the order in which they are decoded; None where it cannot be known."""
        # More than the decoder holds back: packets that it has left out, as those before the first key frame.
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
        """How long a frame is shown, in seconds; by the stream's rate where it does not say, 0 where neither does."""
        return (frame.duration or 0) * self._tick_s or self._frame_s


def tick_of(stream: Any) -> float:
    """The unit of a stream's timestamps in seconds; 0 where it has none."""
    return float(stream.time_base or 0)


def frame_s(stream: Any) -> float:
    """How long a frame is shown by the rate of a picture stream, in seconds; 0 where it has none."""
    rate = stream.average_rate or stream.base_rate
    return 1 / float(rate) if rate else 0.0


class SoundClock:
    """Tells the time of every frame of a sound stream, in seconds from `origin_s` on.

    `alone`: there is no picture to keep in step with. What a decoder leaves out at the beginning (the encoder put it
    there) then does not delay the sound.

    Frames follow each other without a gap but where the container states one: where a frame's time is off by more
    than 20 ms both from the end of the samples before it and from the sum of the durations of the packets before it.
    Decoders that hold samples back (WMA) and containers that count packets by their bytes are off by the one and
    not by the other. In MP4 durations are differences of times and say nothing more. Where packets do not tell their
    durations, a time is true to a packet's length only. A repeated time is ignored. AVI has no times of sound: there,
    packets are counted.

    `unsteady` tells that there was such a frame: then times are right only when they are counted from the stream's
    beginning on.
    """

    def __init__(self, stream: Any, format_name: str, origin_s: float, from_beginning: bool, alone: bool) -> None:
        self._tick_s = tick_of(stream)
        self._origin_s, self._alone = origin_s, alone and from_beginning
        self.left_out_s = 0.0  # How much of the beginning does not delay the sound.
        self._counted, self._has_durations = format_name == "avi", "mp4" not in format_name
        self._first_s: float | None = None  # Time of the first packet that decoded, also where it gave no frame.
        self._stated_s: float | None = None  # Of the last frame that had a time.
        self._next_s: float | None = 0.0 if from_beginning else None
        self._said_s: float | None = None  # Where the packets so far end by their own account.
        self._packet_s = self._longest_s = 0.0  # Seconds of sound that came out of this packet, and of the longest one.
        self._begun = self.unsteady = False

    def send(self, packet: Any) -> None:
        """Note a packet that is about to be decoded."""
        if self._first_s is None and packet.pts is not None:
            self._first_s = packet.pts * self._tick_s

    def lose(self, packet: Any) -> None:
        """Note that a packet did not decode. Where there are times, the next frame's tells what is missing."""
        if not self._begun:
            self._first_s = None
        elif self._counted and self._next_s is not None:
            self._next_s += (packet.duration or 0) * self._tick_s

    def time_of(self, frame: Any) -> float | None:
        """Seconds, of the frames in the order in which they are decoded; None where it cannot be known."""
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
        """Where the first frame of a packet begins whose time is `stated_s`."""
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

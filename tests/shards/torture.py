"""What must become of each file of torture/, and why: read off the files by other means than our code.

The numbers come from the packets and boxes of each file, printed raw: frames and frame rate, first and last timestamp,
samples and sample rate, edit lists, the matrix of the track header, the loudest sample. The reasons come from what
the file is: its name, its origin, its bytes.
"""

from dataclasses import dataclass

NO_PICTURE, NO_SOUND = "no picture: the file has no video stream", "no sound: the file has no audio stream"
NO_DECODER = "no sound: FFmpeg has no decoder for its audio stream"


@dataclass(frozen=True)
class Picture:
    """Pixels as displayed (turned, with square pixels), seconds from the file's beginning to the last frame's end."""

    width: float
    height: float
    seconds: float
    fps: float


@dataclass(frozen=True)
class Sound:
    """Seconds from the file's beginning to the last sample; whether every sample is zero.

    `begins_s`: the first sample that decodes, by the container (negative: so much of the sound is before the file's
    beginning). `gaps`: where the container has a pause, and for how long. Both in seconds, both read with ffprobe.
    """

    seconds: float
    silent: bool = False
    begins_s: float = 0.0
    gaps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Of the picture and of the sound: what it is, or a part of the reason why it is no use."""

    picture: Picture | str
    sound: Sound | str


def _sound(seconds: float, silent: bool = False) -> Verdict:
    return Verdict(NO_PICTURE, Sound(seconds, silent))


def _picture(width: float, height: float, seconds: float, fps: float) -> Verdict:
    return Verdict(Picture(width, height, seconds, fps), NO_SOUND)


def _both(
    width: float, height: float, seconds: float, fps: float, sound_s: float, silent: bool = False, begins_s: float = 0.0
) -> Verdict:
    return Verdict(Picture(width, height, seconds, fps), Sound(sound_s, silent, begins_s))


NTSC = 30000 / 1001
VERDICTS = {
    # 209 frames; 310,272 samples at 44.1 kHz, every one 0.
    "gradio/a.mp4": _both(1920, 1080, 209 / 30, 30, 7.0355, silent=True),
    "gradio/muted_b.mp4": _picture(480, 270, 5.0, 30),
    "media3/3gp__bbb_176x144_128kbps_15fps_h263.3gp": _picture(176, 144, 1.0, 15),
    "media3/aac__sine.aac": _sound(45 * 1024 / 44100),
    "media3/amr__sample_wb_with_silence_frames.amr": _sound(170 * 0.02),
    # Initialisation segments of CMAF and DASH: a header for media that are in other files.
    "media3/cmaf__multi-segment__video_init.mp4": Verdict("the video stream is empty", NO_SOUND),
    "media3/dash__multi-segment-with-emsg0__segment_init.mp4": Verdict("the video stream is empty", NO_SOUND),
    "media3/dash__standalone-ttml__sample.video.mp4": _picture(1080, 720, 1.001, NTSC),
    "media3/dash__webvtt-in-mp4-multiple-segments__text_init.mp4": Verdict(NO_PICTURE, NO_SOUND),
    # encv and pssh boxes, and fragments without the boxes that FFmpeg needs.
    "media3/drm__sample_av1c_fragmented_clearkey.mp4": Verdict("seems to be encrypted", "seems to be encrypted"),
    "media3/flac__bear_32bit.flac": _sound(131568 / 48000),
    "media3/flac__bear_no_seek_table_no_num_samples.flac": _sound(131568 / 48000),
    # Its picture of 452x452 is a cover.
    "media3/flac__bear_with_id3.flac": _sound(131568 / 48000),
    # 71 frames from 0.084 s on; its header counts from 0, we from the first frame.
    "media3/flv__sample-with-key-frame-index.flv": _picture(320, 180, 71 / 24, 24),
    "media3/hls__standalone-webvtt__sample.mp4": _picture(1080, 720, 1.001, NTSC),
    "media3/mkv__bbb_1ch_48kHz_q10_opus.webm": _sound(144000 / 48000),
    # Picture from 0.067 s on, sound from 0.129 s on, for 44,544 samples: the file begins with its picture.
    "media3/mkv__sample_last_cluster.mkv": _both(1080, 720, 1.0, 30, 0.062 + 44544 / 44100, begins_s=0.062),
    "media3/mkv__sample_with_dts_hd_ma.mkv": _sound(48128 / 48000, silent=True),
    "media3/mkv__sample_with_null_terminated_srt.mkv": _both(1080, 720, 1.0, 30, 0.062 + 44544 / 44100, begins_s=0.062),
    "media3/mkv__sample_with_overlapping_srt.mkv": _both(1080, 720, 1.0, 30, 0.062 + 44544 / 44100, begins_s=0.062),
    # A subtitle at 0 makes that the file's beginning, and the first picture stands for 0.067 s more.
    "media3/mkv__sample_with_ssa_subtitles.mkv": _both(1080, 720, 1.067, 30, 0.129 + 44544 / 44100, begins_s=0.129),
    # ContentEncryption in its header, and one packet: by its header it is 1 ms long, which decides before decoding.
    "media3/mkv__subsample_encrypted_altref.webm": Verdict("the video is 0.00 s long, shorter than", NO_SOUND),
    # The first packet is rubbish; 40 frames of 1,152 samples from 0.026 s on.
    "media3/mp3__200kB-garbage-prefix.mp3": Verdict(NO_PICTURE, Sound(0.0261 + 40 * 1152 / 44100, begins_s=0.0261)),
    # Its picture of 1400x1400 is a cover; the last packet is an ID3v1 tag.
    "media3/mp3__bear-id3-numeric-genre.mp3": _sound(117 * 1152 / 48000),
    "media3/mp3__bear-vbr-vbri-header.mp3": _sound(117 * 1152 / 48000),
    # The header tells of 1,105 samples of encoder delay, which are left out.
    "media3/mp3__bear-vbr-xing-header.mp3": _sound(133632 / 48000),
    "media3/mp3__test-cbr-info-header-trailing-garbage.mp3": _sound(44975 / 44100),
    "media3/mp4__bbb_176x144_192kbps_15fps_mpeg4.mp4": _picture(176, 144, 1.0, 15),
    "media3/mp4__bbb_1ch_8kHz_aac_lc.m4a": _sound(24576 / 8000),
    "media3/mp4__bbb_mono_8kHz_12.2kbps_amrnb.3gp": _sound(3.0),
    # An empty edit of 1 s before 270 frames: the first one stands for it. All samples are 0.
    "media3/mp4__edit_list_positive_shift.mp4": _both(1920, 1080, 10.0, 30, 480256 / 48000, silent=True),
    # The edit list speaks of 12.5 s from the middle of a frame on; 12 whole frames of a second each are left.
    "media3/mp4__iibbibb_editlist_videoonly.mp4": _picture(704, 576, 12.0, 1),
    "media3/mp4__preroll-5s.mp4": _both(640, 360, 5.0, 25, 221184 / 44100, silent=True),
    # AC-3 is the first of its two sounds.
    "media3/mp4__sample_ac3_aac.mp4": _sound(13824 / 48000),
    "media3/mp4__sample_ac4_level4.mp4": Verdict(NO_PICTURE, NO_DECODER),
    "media3/mp4__sample_alac_20bit.mp4": _sound(45056 / 44100),
    "media3/mp4__sample_av1.mp4": _both(1080, 720, 1.001, NTSC, 0.043 + 46080 / 44100, begins_s=0.042993),
    # 54 packets, each 1,536 samples after the one before, of which the first 256 are there (numblkscod is 0).
    "media3/mp4__sample_eac3.mp4": Verdict(
        NO_PICTURE,
        Sound((53 * 1536 + 256) / 48000, gaps=tuple(((n * 1536 + 256) / 48000, 1280 / 48000) for n in range(53))),
    ),
    # The first of 17 frames is only there to be decoded.
    "media3/mp4__sample_edit_list_only_preroll_sync_sample.mp4": _both(
        640, 360, 16 / 30.006, 30.006, 0.52, begins_s=-0.001333
    ),
    # The picture begins two frames behind the sound.
    "media3/mp4__sample_fragmented.mp4": _both(1080, 720, 32 / NTSC, NTSC, 47104 / 44100),
    "media3/mp4__sample_fragmented_large_bitrates.mp4": _both(1080, 720, 32 / NTSC, NTSC, 47104 / 44100),
    "media3/mp4__sample_fragmented_sgpd_v2.mp4": _picture(192, 108, 864 / 25, 25),
    "media3/mp4__sample_fragmented_variable_length_sgpd.mp4": _picture(192, 108, 864 / 25, 25),
    "media3/mp4__sample_ipcm_24le.mp4": _both(1080, 720, 1.001, NTSC, 0.067 + 45056 / 44100, begins_s=0.067007),
    # MPEG-H.
    "media3/mp4__sample_mhm1_bl_cicp1_fragmented.mp4": Verdict(NO_PICTURE, NO_DECODER),
    "media3/mp4__sample_mhm1_lcbl_cicp1_fragmented.mp4": Verdict(NO_PICTURE, NO_DECODER),
    # The box that is missing is the sound's.
    "media3/mp4__sample_missing_stsd.mp4": Verdict(Picture(1080, 720, 1.001, NTSC), NO_DECODER),
    "media3/mp4__sample_opus.mp4": _sound(1.0035),
    # The matrix (0 1 / 1 0): turned and mirrored.
    "media3/mp4__sample_rotate_and_reflect.mp4": _both(720, 1080, 1.001, NTSC, 1.0672, begins_s=0.067211),
    "media3/mp4__sample_simple.mp4": _both(320, 240, 1.001, NTSC, 0.043 + 46080 / 44100, begins_s=0.042993),
    "media3/mp4__sample_unsupported_brands.mp4": _both(1080, 720, 1.001, NTSC, 1.0672, begins_s=0.067211),
    "media3/mp4__sample_with_btrt.mp4": _both(1080, 720, 1.001, NTSC, 1.0879, begins_s=0.066213),
    # One of 30 packets does not decode: the picture before it stays.
    "media3/mp4__sample_with_invalid_nalu.mp4": _picture(1080, 720, 1.001, NTSC),
    # The clock of the picture is wrong: 30 frames in 0.050 s. The sound goes on without it.
    "media3/mp4__sample_with_vobsub.mp4": Verdict(Picture(1080, 720, 0.050, 30 / 0.050), Sound(1.009)),
    # The first of two eyes.
    "media3/mp4__water_180_mvhevc_5frames.mov": _picture(1934, 2160, 5 / 90, 90),
    "media3/ogg__bear_duplicate_header.opus": _sound(131520 / 48000),
    "media3/ogg__bear_vorbis_gap.ogg": _sound(131568 / 48000),
    "media3/ts__sample_ac4.ts": Verdict(NO_PICTURE, NO_DECODER),
    # 16 packets of 188 bytes, DTS-HD that FFmpeg takes for MP3: nothing in it can be decoded, and it has no length.
    "media3/ts__sample_dts_hd_across_pes.ts": Verdict(NO_PICTURE, "the audio stream is empty"),
    "media3/ts__sample_eac3joc.ts": _sound(98304 / 48000),
    "media3/ts__sample_h264.ts": _picture(854, 480, 1.0, 30),
    "media3/ts__sample_h264_no_access_unit_delimiters.ts": _picture(640, 426, 3 / NTSC, NTSC),
    "media3/ts__sample_mpeg_audio_with_audio_type.ts": _sound(48384 / 48000, silent=True),
    # MPEG-H that FFmpeg takes for MP3, or for nothing.
    "media3/ts__sample_mpegh_bl_cicp1_multi.ts": Verdict(NO_PICTURE, "the sound does not decode"),
    "media3/ts__sample_mpegh_bl_configchange_single.ts": Verdict(NO_PICTURE, "the sound does not decode"),
    "media3/ts__sample_mpegh_lcbl_configchange_cont.ts": Verdict(NO_PICTURE, NO_SOUND),
    # 4 kB of a broadcast: two frames of AC-3, and not one packet of the picture.
    "media3/ts__sample_with_sdt.ts": Verdict("the video stream is empty", Sound(3072 / 48000)),
    # 80 packets for 72 frames: 8 are never shown.
    "media3/vp9__roadtrip-vp92-10bit.webm": _picture(426, 240, 72 * 1001 / 24000, 24000 / 1001),
    "media3/wav__sample_8bit.wav": _sound(1.0),
    "media3/wav__sample_rf64.wav": _sound(16734 / 48000),
    "moviepy/-video-with-dash-.mp4": _picture(1, 1, 5.0, 1),
    "moviepy/bitmap.mp4": _picture(1, 1, 5.0, 1),
    "moviepy/no_duration.webm": _both(1280, 720, 74 / 14.985, 14.985, 0.015 + 233280 / 48000, silent=True),
    "moviepy/result.webm": Verdict("the file is empty", "the file is empty"),
    "moviepy/video_with_failing_audio.mp4": _both(640, 360, 280 / 25, 25, 495407 / 44100),
    # The first five frames are before the edit.
    "torchcodec/discard_first_keyframe.mp4": _picture(64, 64, 1.0, 25),
    # The first of two pictures and of two sounds.
    "torchcodec/nasa_13013.mp4": _both(320, 180, 13.0, 25, 104448 / 8000),
    "torchcodec/nasa_13013_rotated.mp4": _picture(270, 480, 17 / NTSC, NTSC),
    # From 8.333 s on; pixels of 224:225.
    "torchcodec/test_non_zero_start.mp4": _picture(200 * 224 / 225, 112, 12 / 30, 30),
    "torchcodec/testsrc2_444_10bit_hevc.mp4": _picture(321, 241, 1.0, 25),
    "torchcodec/testsrc2_odd_height_and_width_444.mp4": _picture(321, 241, 1.0, 25),
    "torchcodec/testsrc2_odd_width_vp9_10bit.mp4": _picture(321, 240, 1.0, 25),
    "zamba/noemie/Videos_All/Taï_T124/Taï_cam61_687002_647212_20161106/f4636736.avi": _picture(106, 60, 60.0, 1),
    # A frame without bytes repeats the one before it.
    "zamba/noemie/Videos_All/Taï_T147/Taï_cam170_678016_649215_20161227/02120086.AVI": _picture(106, 60, 61.0, 1),
    "zamba/noemie/Videos_All/Taï_T174/Taï_cam192_679012_651185_20161023/11060025.AVI": _picture(106, 60, 16.0, 1),
    "zamba/noemie/Videos_All/Taï_TD4/Taï_cam17_691988_643179_20161119/PICT0026.AVI": _picture(90, 60, 61.0, 1),
}

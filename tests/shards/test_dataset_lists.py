"""Data sets whose official lists name every file: UCF101, HMDB51, ESC-50, ESC-10, DCASE 2014."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.errors import ConfigError
from shards.layouts.registry import read_dataset
from tests.places import DATA
from tests.shards.dataset_maker import (
    make_esc50,
    make_esc_folders,
    make_hmdb51,
    make_scenes,
    make_ucf101,
    put,
    reasons_of,
    roles_of,
    ucf_video,
    write_lines,
)

FOLDS = [f"fold-{n}" for n in range(1, 6)]


def append(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_ucf101_has_three_splits_and_the_class_of_the_folder(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    found = read_dataset("ucf101", tmp_path)
    assert (found.name, found.modalities, found.root) == ("ucf101", ("video",), tmp_path)
    assert found.classes == ("Archery", "HandstandPushups", "YoYo")
    assert roles_of(found) == {name: {"train": 6, "test": 3} for name in ("1", "2", "3")}
    assert found.rejects == ()
    source = next(source for source in found.sources if "HandStandPushups_g02" in source.path)
    assert source.path == "UCF-101/" + ucf_video("HandstandPushups", 2)
    assert dict(source.labels) == {"label": "HandstandPushups"}
    assert (source.start_s, source.end_s, source.split) == (None, None, "")
    assert [split.roles[source.path] for split in found.splits] == ["train", "test", "train"]


@pytest.mark.parametrize("videos", ["", "UCF-101", "data/videos"])
@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", "."])
def test_ucf101_is_found_wherever_videos_and_lists_usually_lie(tmp_path: Path, videos: str, lists: str) -> None:
    make_ucf101(tmp_path, videos, lists)
    found = read_dataset("ucf101", tmp_path)
    assert len(found.sources) == 9
    assert found.rejects == ()


def test_ucf101_needs_no_list_of_classes(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    (tmp_path / "ucfTrainTestlist/classInd.txt").unlink()
    assert read_dataset("ucf101", tmp_path).classes == ("Archery", "HandstandPushups", "YoYo")


def test_names_are_compared_without_regard_to_case_and_to_the_suffix(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    videos = tmp_path / "UCF-101"
    (videos / ucf_video("YoYo", 1)).rename(videos / "YoYo/v_YoYo_g01_c01.AVI")
    (videos / ucf_video("YoYo", 2)).unlink()
    put(videos, "YoYo/v_YoYo_g02_c01.mp4", "YoYo/v_YoYo_g03_c01.mp4")
    (videos / "HandstandPushups").rename(videos / "HandStandPushups")
    found = read_dataset("ucf101", tmp_path)
    assert found.classes == ("Archery", "HandstandPushups", "YoYo")
    assert sum("HandStandPushups/" in source.path for source in found.sources) == 3
    assert [source.path for source in found.sources if "YoYo" in source.path] == [
        "UCF-101/YoYo/v_YoYo_g01_c01.AVI",
        "UCF-101/YoYo/v_YoYo_g02_c01.mp4",
        "UCF-101/YoYo/v_YoYo_g03_c01.avi",
    ]
    assert reasons_of(found) == {
        "UCF-101/YoYo/v_YoYo_g03_c01.mp4": "UCF-101/YoYo/v_YoYo_g03_c01.avi has the same name and was used"
    }


def test_two_files_that_differ_by_their_suffix_may_both_be_listed(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    put(tmp_path, "UCF-101/YoYo/v_YoYo_g01_c01.mp4")
    append(tmp_path / "ucfTrainTestlist/trainlist01.txt", "YoYo/v_YoYo_g01_c01.mp4 3")
    found = read_dataset("ucf101", tmp_path)
    assert len(found.sources) == 10
    assert found.rejects == ()


def test_lines_and_files_of_no_use_are_rejects_with_the_line(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    put(tmp_path, "UCF-101/Archery/v_Archery_g09_c01.avi")
    (tmp_path / "UCF-101/Archery/notes.txt").write_text("x")
    append(
        tmp_path / "ucfTrainTestlist/trainlist01.txt",
        "Archery/v_gone.avi 1",
        "no class",
        "Juggling/v_x.avi 4",
        "YoYo/v_YoYo_g03_c01.avi 1",
        ucf_video("YoYo", 2) + " 3",
        "",
    )
    append(tmp_path / "ucfTrainTestlist/trainlist02.txt", "Archery/v_gone.avi 1")
    found = read_dataset("ucf101", tmp_path)
    assert reasons_of(found) == {
        "Archery/v_gone.avi": "trainlist01.txt, line 7 names it, but there is no such file",
        "no class": "trainlist01.txt, line 8: not of the form Class/v_x.avi or Class/v_x.avi 1",
        "Juggling/v_x.avi": "trainlist01.txt, line 9: the class Juggling is not in classInd.txt",
        "YoYo/v_YoYo_g03_c01.avi": "trainlist01.txt, line 10: class number 1, but in classInd.txt YoYo has 3",
        "UCF-101/YoYo/v_YoYo_g02_c01.avi": "trainlist01.txt, line 11 names it a second time",
        "UCF-101/Archery/v_Archery_g09_c01.avi": "no list names it",
        "UCF-101/Archery/notes.txt": "not a media file by its name (.txt)",
    }
    assert len(found.rejects) == 7
    assert roles_of(found) == {name: {"train": 6, "test": 3} for name in ("1", "2", "3")}


def test_a_file_for_training_and_for_test_is_an_error(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    append(tmp_path / "ucfTrainTestlist/testlist02.txt", ucf_video("Archery", 1))
    with pytest.raises(ConfigError) as caught:
        read_dataset("ucf101", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: testlist02.txt, line 4: UCF-101/Archery/v_Archery_g01_c01.avi is for test in split 2, but an "
        "earlier line says for train. Correct the list."
    )


def test_a_class_that_is_tested_but_not_trained_is_an_error_that_names_it(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    for group in (1, 3):
        (tmp_path / "UCF-101" / ucf_video("YoYo", group)).unlink()
    with pytest.raises(ConfigError) as caught:
        read_dataset("ucf101", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: split 2 of ucf101 tests 1 of 3 classes of which it has no training item (YoYo). 2 inputs were "
        "rejected, the first: YoYo/v_YoYo_g03_c01.avi: trainlist01.txt, line 6 names it, but there is no such file."
    )


@pytest.mark.parametrize("role", ["train", "test"])
def test_a_split_with_nothing_to_train_or_to_test_is_an_error(tmp_path: Path, role: str) -> None:
    make_ucf101(tmp_path)
    write_lines(tmp_path / f"ucfTrainTestlist/{role}list03.txt", [])
    with pytest.raises(ConfigError, match=rf"split 3 of ucf101 has no {role} item\. No input was rejected"):
        read_dataset("ucf101", tmp_path)


def test_lists_without_any_of_their_files_are_an_error(tmp_path: Path) -> None:
    make_ucf101(tmp_path)
    (tmp_path / "UCF-101").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    with pytest.raises(ConfigError, match=r"holds no file that can be used as the layout ucf101 has it\. 9 inputs"):
        read_dataset("ucf101", tmp_path)


@pytest.mark.parametrize(
    ("layout", "make", "list_"),
    [
        ("ucf101", make_ucf101, "ucfTrainTestlist/testlist03.txt"),
        ("hmdb51", make_hmdb51, "testTrainMulti_7030_splits/wave_test_split2.txt"),
    ],
)
def test_a_list_that_is_missing_or_not_text_is_an_error(
    tmp_path: Path, layout: str, make: Callable[[Path], None], list_: str
) -> None:
    make(tmp_path)
    (tmp_path / list_).write_bytes(b"caf\xe9 1\n")
    with pytest.raises(ConfigError, match=rf"{Path(list_).name} is not a text file in UTF-8"):
        read_dataset(layout, tmp_path)
    (tmp_path / list_).unlink()
    with pytest.raises(ConfigError, match=rf"{Path(list_).name} cannot be read: No such file.*part of the layout"):
        read_dataset(layout, tmp_path)


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("ucf101", r"no trainlist01\.txt in it or in ucfTrainTestlist/.*Expected below this folder: <Class>/v_\*\.avi"),
        ("hmdb51", r"no \*_test_split1\.txt in it or in testTrainMulti_7030_splits/.*Expected.*<class>/\*\.avi"),
        ("esc50", r"neither meta/esc50\.csv nor sound files in numbered folders\. Expected"),
        ("esc10", r"neither meta/esc50\.csv nor sound files in numbered folders\. Expected"),
        ("dcase2014", r"no recording named after one of the ten classes\. Expected.*scenes_stereo"),
    ],
)
def test_a_root_without_the_layout_is_an_error_that_tells_the_layout(tmp_path: Path, layout: str, says: str) -> None:
    put(tmp_path, "some/video.avi")
    with pytest.raises(ConfigError, match=says):
        read_dataset(layout, tmp_path)


@pytest.mark.parametrize("videos", ["", "hmdb51_org"])
@pytest.mark.parametrize("lists", ["testTrainMulti_7030_splits", "test_train_splits", "."])
def test_hmdb51_follows_the_codes_of_its_lists(tmp_path: Path, videos: str, lists: str) -> None:
    make_hmdb51(tmp_path, videos, lists)
    found = read_dataset("hmdb51", tmp_path)
    assert (found.modalities, found.classes, found.rejects) == (("video",), ("brush_hair", "wave"), ())
    assert len(found.sources) == 8
    # The fourth of every class has code 0: it is there, and not used.
    assert roles_of(found) == {name: {"train": 4, "test": 2} for name in ("1", "2", "3")}
    path = next(source.path for source in found.sources if source.path.endswith("wave_f_cm_np1_ba_med_2.avi"))
    assert [split.roles[path] for split in found.splits] == ["train", "test", "train"]


def test_hmdb51_rejects_lines_that_make_no_sense(tmp_path: Path) -> None:
    make_hmdb51(tmp_path)
    append(tmp_path / "testTrainMulti_7030_splits/wave_test_split1.txt", "x.avi 3", "x.avi", "gone.avi 1")
    put(tmp_path, "walk/a.avi")
    assert reasons_of(read_dataset("hmdb51", tmp_path)) == {
        "x.avi 3": "wave_test_split1.txt, line 5: not of the form x.avi 0, x.avi 1 or x.avi 2",
        "x.avi": "wave_test_split1.txt, line 6: not of the form x.avi 0, x.avi 1 or x.avi 2",
        "wave/gone.avi": "wave_test_split1.txt, line 7 names it, but there is no such file",
        "walk/a.avi": "no list names it",
    }


def test_esc50_has_five_folds_each_tested_once(tmp_path: Path) -> None:
    make_esc50(tmp_path)
    found = read_dataset("esc50", tmp_path)
    assert (found.modalities, found.classes) == (("audio",), ("chirping_birds", "dog", "rain"))
    assert roles_of(found) == {name: {"train": 12, "test": 3} for name in FOLDS}
    for number, split in enumerate(found.splits, start=1):
        tested = {path for path, role in split.roles.items() if role == "test"}
        assert tested == {f"audio/{number}-{100 + number}-A-{target}.wav" for target in range(3)}
    assert {source.split for source in found.sources} == {""}


def test_esc10_is_the_marked_part_of_esc50(tmp_path: Path) -> None:
    make_esc50(tmp_path)
    found = read_dataset("esc10", tmp_path)
    assert found.classes == ("dog", "rain")
    assert roles_of(found) == {name: {"train": 8, "test": 2} for name in FOLDS}
    assert set(reasons_of(found).values()) == {"meta/esc50.csv says that it is not of ESC-10"}
    assert len(found.rejects) == 5


def test_esc50_rejects_rows_and_files_of_no_use(tmp_path: Path) -> None:
    make_esc50(tmp_path)
    put(tmp_path, "audio/9-1-A-0.wav")
    append(
        tmp_path / "meta/esc50.csv",
        "6-1-A-0.wav,6,0,dog,True,1,A",
        ",1,0,dog,True,1,A",
        "1-101-A-0.wav,1,0,dog,True,101,A",
        "1-999-A-0.wav,1,0,dog,True,999,A",
    )
    needed = "a file name, a category and a fold from 1 to 5 are needed"
    found = read_dataset("esc50", tmp_path)
    assert reasons_of(found) == {
        "6-1-A-0.wav": f"meta/esc50.csv, row 16: {needed} (the fold is '6')",
        "row 17": f"meta/esc50.csv, row 17: {needed} (the fold is '1')",
        "audio/1-101-A-0.wav": "meta/esc50.csv, row 18 names it a second time",
        "1-999-A-0.wav": "meta/esc50.csv, row 19 names it, but there is no such file",
        "audio/9-1-A-0.wav": "no list names it",
    }
    assert len(found.rejects) == 5


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (",fold,", ",part,", "no column fold; its columns are filename, part,"),
        ("1-101-A-0.wav,1,0,dog", "1-101-A-0.wav,1,0,rain\n1-101-A-0.wav,1,0,dog", "is of class dog, but .* says rain"),
        ("1-101-A-0.wav,1", "1-101-A-0.wav,2,0,dog,True,1,A\n1-101-A-0.wav,1", "is for test in split fold-1, but"),
    ],
)
def test_a_table_of_esc50_that_contradicts_itself_is_an_error(tmp_path: Path, old: str, new: str, says: str) -> None:
    make_esc50(tmp_path)
    replace_in(tmp_path / "meta/esc50.csv", old, new)
    with pytest.raises(ConfigError, match=says):
        read_dataset("esc50", tmp_path)


def test_a_table_of_esc50_without_its_sounds_is_an_error(tmp_path: Path) -> None:
    make_esc50(tmp_path)
    (tmp_path / "audio").rename(tmp_path / "sounds")
    with pytest.raises(ConfigError, match="no folder audio"):
        read_dataset("esc50", tmp_path)


@pytest.mark.parametrize("layout", ["esc10", "esc50"])
def test_the_older_layout_of_esc_has_class_and_fold_in_its_names(tmp_path: Path, layout: str) -> None:
    make_esc_folders(tmp_path)
    put(tmp_path, "001 - Dog bark/6-1-A.ogg", "001 - Dog bark/x.ogg", "Rain/1-1-A.ogg")
    found = read_dataset(layout, tmp_path)
    assert (found.name, found.modalities, found.classes) == (layout, ("audio",), ("Dog bark", "Rain"))
    assert roles_of(found) == {name: {"train": 8, "test": 2} for name in FOLDS}
    assert found.splits[2].roles["002 - Rain/3-103-A.ogg"] == "test"
    reason = "not named as in '001 - Dog bark/1-1-A.ogg', with a fold from 1 to 5"
    assert reasons_of(found) == dict.fromkeys(
        ["001 - Dog bark/6-1-A.ogg", "001 - Dog bark/x.ogg", "Rain/1-1-A.ogg"], reason
    )


def test_more_classes_than_esc10_has_are_an_error_that_names_the_other_layout(tmp_path: Path) -> None:
    for number in range(11):
        put(tmp_path, *(f"{number:03d} - Class {number}/{fold}-1-A.wav" for fold in range(1, 6)))
    with pytest.raises(ConfigError, match=r"11 classes, but ESC-10 has 10\. For ESC-50 the layout is esc50"):
        read_dataset("esc10", tmp_path)
    assert len(read_dataset("esc50", tmp_path).classes) == 11


def test_the_real_esc10_has_forty_recordings_of_ten_classes_in_five_folds() -> None:
    if not (DATA / "esc10").is_dir():
        pytest.skip(f"{DATA / 'esc10'} is not there: set XDC_TEST_DATA to a folder that holds esc10/")
    found = read_dataset("esc10", DATA / "esc10")
    assert (len(found.sources), len(found.classes)) == (400, 10)
    assert roles_of(found) == {name: {"train": 320, "test": 80} for name in FOLDS}
    assert {path for path in reasons_of(found) if path.endswith(".ogg")} == set()


def test_dcase2014_trains_on_development_and_tests_on_evaluation(tmp_path: Path) -> None:
    make_scenes(tmp_path / "scenes_stereo/scenes_stereo")
    make_scenes(tmp_path / "scenes_stereo_testset")
    found = read_dataset("dcase2014", tmp_path)
    assert (found.modalities, found.classes, found.rejects) == (("audio",), ("bus", "busystreet"), ())
    assert roles_of(found) == {"evaluation": {"train": 12, "test": 12}}
    for source in found.sources:
        assert source.split == ("test" if "testset" in source.path else "train")
        assert Path(source.path).name.startswith(source.labels["label"])


def test_dcase2014_takes_the_prefix_of_evaluation_files_too(tmp_path: Path) -> None:
    make_scenes(tmp_path / "dev")
    make_scenes(tmp_path / "audio", prefix="test_")
    assert roles_of(read_dataset("dcase2014", tmp_path)) == {"evaluation": {"train": 12, "test": 12}}


def test_dcase2014_without_an_official_division_is_dealt_out_by_class(tmp_path: Path) -> None:
    make_scenes(tmp_path)
    found = read_dataset("dcase2014", tmp_path)
    tested = {
        split.name: sorted(path for path, role in split.roles.items() if role == "test") for split in found.splits
    }
    assert tested == {
        "fold-1": ["bus01.wav", "bus11.wav", "busystreet01.wav", "busystreet11.wav"],
        "fold-2": ["bus03.wav", "busystreet03.wav"],
        "fold-3": ["bus04.wav", "busystreet04.wav"],
        "fold-4": ["bus06.wav", "busystreet06.wav"],
        "fold-5": ["bus08.wav", "busystreet08.wav"],
    }
    assert all(len(split.roles) == 12 for split in found.splits)


def make_key(path: Path, fold_of: Callable[[int], int], header: str = "fold,a,b,name") -> None:
    """The evaluation set's official folds."""
    names = [f"{label}{n:02d}.wav" for label in ("bus", "busystreet") for n in (1, 3, 4, 6, 8, 11)]
    rows = [f"fold{fold_of(place)}_{place},x,y,{name}" for place, name in enumerate(names)]
    write_lines(path, [header, *rows])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("place", ["evaluation set", "folder in it"])
def test_dcase2014_follows_the_official_folds_of_the_evaluation_set(tmp_path: Path, first: int, place: str) -> None:
    root = tmp_path / ("scenes_stereo_testset" if place == "evaluation set" else "dcase")
    make_scenes(root if place == "evaluation set" else root / "scenes_stereo_testset")
    # Of twelve files the first two are of the first fold, and so on round.
    make_key(root / "dcase2013_task1_filenamekey.csv", lambda place: first + place // 2 % 5)
    found = read_dataset("dcase2014", root)
    assert found.rejects == ()
    tested = [{Path(path).name for path, role in split.roles.items() if role == "test"} for split in found.splits]
    assert tested[0] == {"bus01.wav", "bus03.wav", "busystreet08.wav", "busystreet11.wav"}
    assert tested[1] == {"bus04.wav", "bus06.wav"}


def test_official_folds_of_dcase2014_hold_for_names_with_the_prefix_of_evaluation(tmp_path: Path) -> None:
    make_scenes(tmp_path / "audio", prefix="test_")
    make_key(tmp_path / "dcase2013_task1_filenamekey.csv", lambda place: 1 + place // 2 % 5)
    found = read_dataset("dcase2014", tmp_path)
    assert found.rejects == ()
    tested = {path for path, role in found.splits[1].roles.items() if role == "test"}
    assert tested == {"audio/test_bus04.wav", "audio/test_bus06.wav"}


def test_dcase2014_rejects_what_the_official_folds_do_not_name(tmp_path: Path) -> None:
    root = tmp_path / "testset"
    make_scenes(root)
    put(root, "bus77.wav", "kitchen01.wav", "office.wav")
    key = root / "dcase2013_task1_filenamekey.csv"
    make_key(key, lambda place: 1 + place // 2 % 5)
    append(key, "fold1_9,x,y,park01.wav", "folder,x,y,park02.wav")
    found = read_dataset("dcase2014", root)
    assert reasons_of(found) == {
        "bus77.wav": f"{key.name} does not name it: it is in no fold",
        "kitchen01.wav": "not named as in bus01.wav, after one of the ten classes",
        "office.wav": "not named as in bus01.wav, after one of the ten classes",
        "park01.wav": f"{key.name}, line 14 names it, but there is no such file",
        "folder,x,y,park02.wav": f"{key.name}, line 15: it does not begin with a fold such as fold1",
    }
    assert "bus77.wav" not in found.splits[0].roles


def test_official_folds_of_dcase2014_that_are_not_five_are_an_error(tmp_path: Path) -> None:
    make_scenes(tmp_path / "testset")
    make_key(tmp_path / "dcase2013_task1_filenamekey.csv", lambda place: 1 + place % 2)
    with pytest.raises(ConfigError, match="5 folds were expected, of which there are files for fold1, fold2"):
        read_dataset("dcase2014", tmp_path)


def test_a_recording_of_dcase2014_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    make_scenes(tmp_path / "scenes_stereo")
    put(tmp_path, "scenes_stereo_copy/BUS01.wav")
    found = read_dataset("dcase2014", tmp_path)
    assert reasons_of(found) == {
        "scenes_stereo_copy/BUS01.wav": "scenes_stereo/bus01.wav has the same name and was used"
    }

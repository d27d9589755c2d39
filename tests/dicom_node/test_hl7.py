"""What an ORU^R01 says, and that no bytes can make the reader fall over."""

from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicom_node import envelope, hl7, vocabulary
from dicom_node.envelope import NotHl7Error, RefusedError
from dicom_node.errors import SettingsError
from dicom_node.findings import Deposit, Laterality, ParkReason, Slnd
from tests.pathology_messages import fields, message, order, words_file

WORDS = vocabulary.default()
L, R = Laterality.LEFT, Laterality.RIGHT


def read(content: bytes, words=WORDS):
    header = envelope.read_header(content)
    envelope.demand_supported(header, "P")
    return hl7.parse(content, header, words)


def only(content: bytes, words=WORDS):
    (statement,) = read(content, words).statements
    return statement


def test_a_final_coded_result_is_understood():
    one = only(message(order()))

    assert (one.side, one.result, one.deposit) == (L, Slnd.POSITIVE, None)
    assert one.performed_on == date(2026, 4, 1)
    assert not one.correction
    assert one.problem is None


@pytest.mark.parametrize(
    ("value", "result", "deposit"),
    [
        ("POS", Slnd.POSITIVE, None),
        ("Positive", Slnd.POSITIVE, None),
        ("  metastasis   present. ", Slnd.POSITIVE, None),
        ("negativ", Slnd.NEGATIVE, None),
        ("Makrometastase", Slnd.POSITIVE, Deposit.MACRO),
        ("micrometastasis", Slnd.POSITIVE, Deposit.MICRO),
        ("isolated tumour cells", Slnd.NEGATIVE, Deposit.ITC),
        ("pN0(i+)(sn)", Slnd.NEGATIVE, Deposit.ITC),
        ("pN1mi(sn)", Slnd.POSITIVE, Deposit.MICRO),
        ("X^Positive^L", Slnd.POSITIVE, None),
        ("10828004^whatever^SNOMED-CT", Slnd.POSITIVE, None),
        ("LA6577-6^Negative^LOINC", Slnd.NEGATIVE, None),
        ("1^negative^L^260385009^Negative^SCT", Slnd.NEGATIVE, None),
        ("positive~macrometastasis", Slnd.POSITIVE, Deposit.MACRO),
        ("\\H\\positive\\N\\", Slnd.POSITIVE, None),
        ("\\X706F73\\", Slnd.POSITIVE, None),
    ],
)
def test_known_words_and_codes_have_their_meaning(value, result, deposit):
    one = only(message(order(value)))

    assert (one.problem, one.result, one.deposit) == (None, result, deposit)


@pytest.mark.parametrize(
    "value",
    [
        "positive for isolated tumor cells only",
        "not positive",
        "ypN0",
        "1/3",
        "",
        '""',
        "77777^odd^LOCAL",
        "positive~see comment",
    ],
)
def test_what_is_not_known_for_certain_is_no_result(value):
    one = only(message(order(value)))

    assert one.problem is ParkReason.RESULT_UNKNOWN
    assert one.result is not Slnd.POSITIVE or one.problem is not None
    assert "comment" not in one.detail
    assert "1/3" not in one.detail


def test_an_unknown_code_is_named_and_an_unknown_text_is_not():
    assert "77777^LOCAL" in only(message(order("77777^odd^LOCAL"))).detail
    assert "a text" in only(message(order("Mrs. Marker is fine"))).detail


@pytest.mark.parametrize(
    "value", ["positive~negative", "positive~isolated tumor cells", "pN1a~pN1mi"]
)
def test_results_that_exclude_each_other_are_no_result(value):
    assert only(message(order(value))).problem is ParkReason.RESULT_CONTRADICTS


def test_a_site_may_call_isolated_tumour_cells_positive():
    words = vocabulary.load(None, itc_is_positive=True)

    one = only(message(order("pN0(i+)")), words)

    assert (one.result, one.deposit) == (Slnd.POSITIVE, Deposit.ITC)


def test_a_site_adds_words_and_codes(tmp_path):
    words = vocabulary.load(words_file(tmp_path))

    text = only(message(order("Node involved", side="Axilla li")), words)
    code = only(message(order("N+^x^L", name="SLNH^Histology^L")), words)

    assert (text.side, text.result) == (L, Slnd.POSITIVE)
    assert (code.result, code.deposit) == (Slnd.POSITIVE, Deposit.MACRO)


@pytest.mark.parametrize(
    "content",
    [
        "[results]\nx = 'maybe'",
        "[results]\nx = 'withdrawn'",
        "[sides]\nx = 'B'",
        "observations = 3",
        "[typo]\nx = 'L'",
        "results = [",
        "results = 3",
    ],
)
def test_a_table_of_words_that_is_wrong_is_refused(tmp_path, content):
    path = tmp_path / "words.toml"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(SettingsError, match="table of words"):
        vocabulary.load(path)


def test_a_table_of_words_that_is_missing_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        vocabulary.load(tmp_path / "none.toml")


def test_both_sides_may_come_in_one_message():
    both = message(order(), order("negative", side="Right"))

    left, right = read(both).statements

    assert (left.side, left.result) == (L, Slnd.POSITIVE)
    assert (right.side, right.result) == (R, Slnd.NEGATIVE)


@pytest.mark.parametrize("side", ["", "axilla", "left and right"])
def test_a_side_is_never_guessed(side):
    one = only(message(order(side=side)))

    assert one.side is None
    assert one.problem is ParkReason.SIDE_UNKNOWN


def test_two_sides_for_one_result_contradict():
    specimen = "SPM|1|S1||TISS||||right|||||||||20260401"
    obr, obx = order().split("\r")

    one = only(message(obr, specimen, obx))

    assert one.problem is ParkReason.SIDE_CONTRADICTS


def test_the_specimen_gives_side_and_day():
    obr = "OBR|1|||396487001^SLNB^SCT|||20260101"
    specimens = [
        f"SPM|{n}|S{n}||TISS||||{site}|||||||||2026040{n}0800"
        for n, site in ((1, "24028007^Right^SCT"), (2, "links"))
    ]
    results = ["OBX|1|CWE|SLND||positive||||||F", "OBX|2|CWE|SLND||negative||||||F"]

    right, left = read(
        message(obr, specimens[0], results[0], specimens[1], results[1])
    ).statements

    assert (right.side, right.result, right.performed_on.day) == (R, "positive", 1)
    assert (left.side, left.result, left.performed_on.day) == (L, "negative", 2)


def test_an_observation_of_laterality_gives_the_side():
    obr = "OBR|1|||396487001^SLNB^SCT|||20260401"
    side = "OBX|1|ST|20228-3^Laterality^LN||Right||||||F"
    result = "OBX|2|ST|result||negative||||||F"

    one = only(message(obr, side, result))

    assert (one.side, one.result) == (R, Slnd.NEGATIVE)


def test_one_positive_node_makes_the_side_positive():
    obr, obx = order("micrometastasis").split("\r")
    more = "OBX|2|CWE|396487001^SLNB^SCT|2|negative||||||F"

    one = only(message(obr, obx, more))

    assert (one.result, one.deposit) == (Slnd.POSITIVE, Deposit.MICRO)


def test_one_node_with_two_results_contradicts():
    obr, obx = order().split("\r")
    again = obx.replace("10828004^Positive^SCT", "negative")

    assert only(message(obr, obx, again)).problem is ParkReason.RESULT_CONTRADICTS


def test_a_correction_replaces_the_final_result_above_it():
    obr, obx = order().split("\r")
    corrected = obx.replace("10828004^Positive^SCT", "negative")[:-1] + "C"

    one = only(message(obr, obx, corrected))

    assert (one.result, one.correction, one.problem) == (Slnd.NEGATIVE, True, None)


@pytest.mark.parametrize("status", ["D", "W"])
def test_a_result_that_the_same_message_withdraws_is_not_taken(status):
    obr, obx = order().split("\r")

    one = only(message(obr, obx, obx[:-1] + status))

    assert one.problem is ParkReason.RESULT_CONTRADICTS


def test_a_result_that_follows_its_withdrawal_counts():
    obr, obx = order().split("\r")

    one = only(message(obr, obx[:-1] + "D", obx))

    assert (one.result, one.problem) == (Slnd.POSITIVE, None)


def test_the_same_observation_twice_is_one():
    obr, obx = order().split("\r")

    assert only(message(obr, obx, obx)).problem is None


def test_an_observation_of_another_matter_is_left_alone():
    receptor = "OBX|2|CWE|ER^Estrogen receptor^L||positive||||||F"
    obr, obx = order("negative").split("\r")

    assert only(message(obr, obx, receptor)).result is Slnd.NEGATIVE
    assert read(message("OBR|1|||ER^Receptors^L", receptor)).statements == ()


def test_an_order_of_sentinel_nodes_without_a_known_observation_is_not_dropped():
    obr, _ = order().split("\r")
    odd = "OBX|1|TX|note||Metastasis in one of three nodes||||||F"

    one = only(message(obr, odd))

    assert (one.side, one.problem) == (L, ParkReason.RESULT_UNKNOWN)


@pytest.mark.parametrize("day", ["", "2026", "202604", "20261399", "abcdefgh"])
def test_without_a_day_there_is_no_match(day):
    one = only(message(order(day=day)))

    assert one.problem is ParkReason.DATE_UNKNOWN


@pytest.mark.parametrize("status", ["P", "R", "S", "I", "X", "N", ""])
def test_only_final_and_corrected_results_are_taken(status):
    with pytest.raises(RefusedError) as caught:
        read(message(order(status=status)))

    assert caught.value.code == "AE"
    assert "OBX-11" in caught.value.text


def test_a_correction_says_so():
    assert only(message(order(status="C"))).correction


@pytest.mark.parametrize("status", ["D", "W"])
def test_a_deleted_or_wrong_result_withdraws(status):
    one = only(message(order("", status=status, day="")))

    assert (one.result, one.problem) == (Slnd.WITHDRAWN, None)


@pytest.mark.parametrize(
    ("changes", "code", "condition"),
    [
        ({"kind": "ADT^A01"}, "AR", 200),
        ({"kind": "ORU^R30"}, "AR", 201),
        ({"processing": "T"}, "AR", 202),
        ({"version": "3"}, "AR", 203),
        ({"control_id": ""}, "AE", 101),
        ({"control_id": "x" * 200}, "AE", 101),
        ({"charset": "UNICODE UTF-16"}, "AE", 102),
        ({"patient": ""}, None, None),
    ],
)
def test_a_message_that_is_not_for_us_is_refused_with_its_condition(
    changes, code, condition
):
    content = message(order(), **changes)
    if code is None:
        content = content.replace(b"~99^^^OTHER", b"")
        code, condition = "AE", 101

    with pytest.raises(RefusedError) as caught:
        read(content)

    assert (caught.value.code, caught.value.condition) == (code, condition)


def test_results_of_several_patients_need_a_message_each():
    with pytest.raises(RefusedError, match="several patients"):
        read(message(order(), "PID|2||X^^^HOSP", order(side="right")))


def test_an_endless_list_of_identifiers_is_refused():
    with pytest.raises(RefusedError, match="20 repetitions"):
        read(message(order(), patient="~".join(map(str, range(30)))))


def test_every_identifier_and_authority_is_read():
    content = message(order()).replace(b"^^^HOSP^MR", b"^^^HOSP&1.2.3&ISO^MR")

    first, second = read(content).identifiers

    assert (first.patient_id, first.authorities[:2]) == (
        "MARKER-PID-1",
        ("HOSP", "1.2.3"),
    )
    assert (second.patient_id, second.authorities) == ("99", ("OTHER",))
    assert "MARKER" not in repr(first)


@pytest.mark.parametrize("charset", ["", "8859/1", "UNICODE UTF-8", "UTF-8"])
def test_the_character_set_is_that_of_the_header(charset):
    named = message(order("negative", name="Wächterlymphknoten"), charset=charset)
    latin = named if charset != "" else named.decode().encode("iso8859-1")

    assert only(named).result is Slnd.NEGATIVE
    assert only(latin).result is Slnd.NEGATIVE


def test_bytes_outside_the_character_set_are_refused():
    content = message(order(), charset="ASCII").replace(b"Marker^P", b"M\xe4rker^P")

    with pytest.raises(RefusedError, match="MSH-18"):
        read(content)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r\r"])
def test_other_ends_of_segments_are_understood(ending):
    content = message(order()).replace(b"\r", ending)

    assert only(content).result is Slnd.POSITIVE


def test_other_separators_are_understood():
    content = message(order()).decode()
    swapped = content.translate(str.maketrans("|^~\\&", "#@!/%")).encode()

    assert only(swapped).result is Slnd.POSITIVE


def test_the_answer_repeats_the_control_id_and_swaps_the_sides():
    header = envelope.read_header(message(order(), control_id="A\\T\\7"))

    answer = envelope.acknowledge(header, "AE", "no | here", 207, "Z9")

    said = fields(answer)
    assert said["MSH"][2:6] == ["SENTINODE", "RAD", "LIS", "HOSP"]
    assert said["MSH"][8] == "ACK^R01^ACK"
    assert said["MSA"][1:] == ["AE", "A\\T\\7", "no \\F\\ here"]
    assert said["ERR"][3] == "207^^HL70357"


def attempt(content: bytes) -> None:
    """Read as the listener does; only the two announced errors may come."""
    try:
        header = envelope.read_header(content)
    except NotHl7Error:
        return
    try:
        envelope.demand_supported(header, "P")
        hl7.parse(content, header, WORDS)
    except RefusedError as refusal:
        text, condition = refusal.text, refusal.condition
        envelope.acknowledge(header, refusal.code, text, condition, "1")
    envelope.content_of(content)


@given(st.binary(max_size=300))
@example(b"MSH|^~\\&")
@example(b"MSH|||||")
@example(b"MSH|^~\\&|\r\r|\rPID")
def test_any_bytes_are_read_or_refused(garbage):
    attempt(garbage)


PIECES = st.sampled_from(
    [
        *(
            "|",
            "^",
            "~",
            "\\",
            "&",
            "\r",
            "\n",
            '""',
            "OBX",
            "OBR",
            "PID",
            "SPM",
            "MSH",
        ),
        *("\\X\\", "\\X4\\", "\\.sp99999999999\\", "\\F\\", "left", "positive", "F"),
        *("396487001^SLNB^SCT", "20260401", "é", "\x00", "\x0b"),
    ]
)


@given(st.lists(PIECES, max_size=60), st.integers(0, 400))
def test_a_damaged_message_is_read_or_refused(pieces, place):
    text = message(order(), order("negative", side="right")).decode()

    attempt((text[:place] + "".join(pieces) + text[place:]).encode())
    attempt((text[:place] + text[place + len(pieces) :]).encode())

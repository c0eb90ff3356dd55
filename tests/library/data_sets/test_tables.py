"""Tables as they are found on disks: cells, blanks, headers and line numbers."""

import gzip

import numpy as np
import pandas
import pytest

from medtraverse.data_sets.tables import read_table, states


def test_a_label_is_read_as_programs_write_it():
    cells = [
        "1",
        "1.0",
        "True",
        "TRUE",
        "0",
        "0.00",
        "false",
        "-1.0",
        "",
        "NaN",
        "nan",
        "NA",
        "<NA>",
        "None",
        "2",
        "x",
    ]
    values, faulty = states(pandas.Series(cells))
    np.testing.assert_array_equal(values, [1, 1, 1, 1, 0, 0, 0, -1, *[np.nan] * 8])
    assert list(np.flatnonzero(faulty)) == [14, 15]


def test_lines_are_counted_through_blanks_quotes_and_windows_ends(tmp_path):
    text = '\ufeffPath, Edema\r\na, 1\r\n\r\n"b\r\nc",0\r\nd,"1"\r\n'
    for name in ("a.csv", "a.csv.gz"):
        content = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        table = read_table(tmp_path / name)
        assert list(table.column("path")) == ["a", "b\r\nc", "d"] and list(table.lines) == [2, 4, 6]
        assert list(table.column("EDEMA")) == ["1", "0", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", "line 3: 1 cells, but the header has 2; copy the table again."),
        (b'a,b\n1,2\n"3"\n', "line 3: 1 cells, but the header has 2; copy"),
        (b"a,b\n1,2,3\n", "is no UTF-8 CSV table .*; save it"),
        (b"a,\xff\n", "is no UTF-8 CSV table"),
        (b'a,b\n"1,2\n', "is no UTF-8 CSV table"),
        (b"", "is no UTF-8 CSV table"),
        (b"a,A\n1,2\n", r"lacks column b; it has a, A\.$"),
        (b'"x\n' + b"y" * 60 + b'",c\n1,2\n', r"lacks column b; it has x y{38}…, c\.$"),
    ],
)
def test_what_is_no_table_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(tmp_path / "a.csv").column("b")
    assert "\n" not in str(caught.value)


def test_a_header_may_end_with_a_comma(tmp_path):
    """NIH's older table."""
    (tmp_path / "a.csv").write_text("a,b,\n1,2\n3,4,\n")
    assert list(read_table(tmp_path / "a.csv").column("b")) == ["2", "4"]
    with pytest.raises(ValueError, match=r"absent.csv: cannot be read \(No such file"):
        read_table(tmp_path / "absent.csv")

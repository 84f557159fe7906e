import json

import pytest

from attnorm.files import replacing, write_json_atomic, write_text_atomic


def write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_a_failure_leaves_the_file_before_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(path, {"a": float("nan")})
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]


def test_content_is_replaced_and_readable_for_others(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / "new" / "text.txt"
    for content in ("one", "zwölf"):
        write_text_atomic(path, content)
        assert path.read_text(encoding="utf-8") == content
    assert path.stat().st_mode == plain.stat().st_mode

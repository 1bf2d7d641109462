"""What an upgrade changes, told by package."""

from lockstep.formats import UnitKind
from lockstep_client.manifest import ManifestUnit, PackageDifference, compare


def unit(number: int, package: str = "", path: str = "") -> ManifestUnit:
    return ManifestUnit(
        UnitKind.PYTHON_SOURCE, bytes([number]) * 32, paths=(path,) if path else (), package=package
    )


def test_an_upgrade_is_one_line_a_package() -> None:
    before = [
        unit(1, "pkg:pypi/a@1"),
        unit(2, "pkg:pypi/a@1"),
        unit(3, "pkg:pypi/b@1"),
        unit(9, "pkg:pypi/same@1"),
    ]
    after = [
        unit(1, "pkg:pypi/a@2"),
        unit(4, "pkg:pypi/a@2"),
        unit(5, "pkg:pypi/c@1"),
        unit(9, "pkg:pypi/same@1"),
    ]
    found = compare(before, after)
    assert found.packages == (
        PackageDifference("pkg:pypi/a", ("1",), ("2",), 1, 1),
        PackageDifference("pkg:pypi/b", ("1",), (), 0, 1),
        PackageDifference("pkg:pypi/c", (), ("1",), 1, 0),
    )
    assert [item.change for item in found.packages] == ["upgraded", "removed", "added"]
    assert (found.units_added, found.units_removed, found.units_kept) == (2, 2, 2)


def test_the_same_version_with_other_code_is_a_change() -> None:
    [found] = compare([unit(1, "pkg:pypi/a@1")], [unit(2, "pkg:pypi/a@1")]).packages
    assert found.change == "changed"


def test_code_of_no_package_is_told_by_path() -> None:
    found = compare([unit(1, path="/a"), unit(2, path="/b")], [unit(3, path="/b"), unit(4, path="/c")])
    assert (found.added, found.removed, found.changed) == (("/c",), ("/a",), ("/b",))


def test_nothing_changed() -> None:
    assert not compare([unit(1)], [unit(1)])

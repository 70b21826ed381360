"""Clusters from tables: a CSV or JSON file beside the ClusterTable that names it."""

import json
from collections.abc import Mapping

import pytest

from hub.model import Finding, Fleet
from hub.repo import fleet, places
from proto.errors import InvalidInput
from proto.ids import ClusterName

TABLE = "apiVersion: flotilla.dev/v1alpha1\nkind: ClusterTable\nmetadata: {name: stores}\nspec: {path: stores.csv}\n"
STORES = """\
name,kubernetes,labels.region,labels.example.org/tier,variables.domain,variables.tills:int,variables.open:bool
store-1,1.36,eu,gold,one.example.org,3,true
store-2,,us,,"two, inc",-1,false
"""


def load(files: Mapping[str, str]) -> Fleet:
    return fleet.load({path: text.encode() for path, text in files.items()})


def stores(text: str, spec: str = "path: stores.csv") -> Fleet:
    return load({"clusters/stores.csv": text, "clusters/stores.yaml": TABLE.replace("path: stores.csv", spec)})


def listed(text: str, spec: str = "path: stores.json") -> Fleet:
    return load({"clusters/stores.json": text, "clusters/stores.yaml": TABLE.replace("path: stores.csv", spec)})


def only_error(found: Fleet) -> Finding:
    (finding,) = found.findings
    assert finding.severity == "error"
    return finding


def test_each_row_of_a_csv_file_is_a_cluster() -> None:
    found = stores(STORES)
    assert found.findings == ()
    assert not found.lost_clusters
    one, two = found.clusters[ClusterName("store-1")], found.clusters[ClusterName("store-2")]
    assert (one.kubernetes, one.where) == ("1.36", "clusters/stores.csv:2")
    assert one.labels == {"region": "eu", "example.org/tier": "gold"}
    assert one.variables == {"domain": "one.example.org", "tills": 3, "open": True}
    assert (two.kubernetes, two.labels) == ("", {"region": "us"})
    assert two.variables == {"domain": "two, inc", "tills": -1, "open": False}


def test_each_object_of_a_json_list_is_a_cluster_with_its_types() -> None:
    rows = [
        {"name": "store-1", "labels": {"region": "eu"}, "labels.tier": "gold", "variables": {"tills": 3, "open": True}},
        {"name": "store-2", "kubernetes": "1.36", "variables.share": 0.5, "decommission": None},
    ]
    found = listed(json.dumps(rows, indent=2))
    assert found.findings == ()
    one, two = found.clusters[ClusterName("store-1")], found.clusters[ClusterName("store-2")]
    assert (one.labels, one.variables) == ({"region": "eu", "tier": "gold"}, {"tills": 3, "open": True})
    assert (two.kubernetes, two.variables, two.where) == ("1.36", {"share": 0.5}, "clusters/stores.json:13")


def test_columns_of_other_names_are_named_and_all_others_are_passed_over() -> None:
    spec = 'path: stores.csv, columns: {name: id, labels.region: Region, "variables.tills:int": Tills}'
    found = stores("id,Region,Tills,Manager,Manager\nstore-1,eu,3,Ada,Bob\n", spec)
    assert found.findings == ()
    cluster = found.clusters[ClusterName("store-1")]
    assert (cluster.labels, cluster.variables) == ({"region": "eu"}, {"tills": 3})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeffname,labels.a\nstore-1,b\n", id="byte order mark"),
        pytest.param("name,labels.a\r\nstore-1,b\r\n", id="Windows"),
        pytest.param("name , labels.a\n\n store-1 ,b\n,\n", id="spaces and empty lines"),
        pytest.param("name,labels.a\nstore-1,b", id="no newline at the end"),
    ],
)
def test_tables_as_programs_write_them(text: str) -> None:
    found = stores(text)
    assert found.findings == ()
    assert found.clusters[ClusterName("store-1")].labels == {"a": "b"}


@pytest.mark.parametrize(
    ("row", "message", "remedy"),
    [
        pytest.param("Store_9,,eu,,,1,true", "'Store_9' is not a valid name", "", id="name"),
        pytest.param(",,eu,,,1,true", "metadata.name is missing", "", id="no name"),
        pytest.param("store-9,,e u,,,1,true", "'e u' is not a label's value", "at most 63", id="label"),
        pytest.param("store-9,new,eu,,,1,true", "'new' is not a version", "1.36", id="version"),
        pytest.param("store-9,,eu,,,one,true", "variables.tills:int is 'one'", "write a number", id="number"),
        pytest.param("store-9,,eu,,,1,yes", "variables.open:bool is 'yes'", "true or false", id="bool"),
        pytest.param("store-9,,eu", "has not as many cells as the first line", "quotes", id="too few"),
        pytest.param("store-9,,eu,,,1,true,x", "has not as many cells as the first line", "quotes", id="too many"),
    ],
)
def test_a_row_that_is_wrong_stops_only_its_cluster(row: str, message: str, remedy: str) -> None:
    finding = only_error(found := stores(f"{STORES}{row}\n"))
    assert finding.where == "clusters/stores.csv:4"
    assert message in finding.message
    assert remedy in finding.remedy
    assert set(found.clusters) == {"store-1", "store-2"}
    assert found.lost_clusters  # it may be one that is missing now
    if row.startswith("store-9"):
        assert finding.about == "cluster store-9"
        assert found.broken_clusters == {"store-9"}


def test_a_name_twice_refuses_both_rows_and_names_each_place() -> None:
    yaml = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: store-2}\n"
    found = load(
        {
            "clusters/stores.csv": STORES + "store-1,,eu,,,,\n",
            "clusters/stores.yaml": TABLE,
            "clusters/more.yaml": yaml,
        }
    )
    assert {finding.where for finding in found.findings} == {
        "clusters/stores.csv:2",
        "clusters/stores.csv:4",
        "clusters/stores.csv:3",
        "clusters/more.yaml:1",
    }
    assert found.clusters == {}
    assert found.broken_clusters == {"store-1", "store-2"}


@pytest.mark.parametrize(
    ("text", "where", "message", "remedy"),
    [
        pytest.param("", "stores.csv", "is empty", "names of the columns", id="empty"),
        pytest.param("id\nstore-1\n", "stores.csv:1", "has no column 'name'", "", id="no names"),
        pytest.param("name;labels.a\n", "stores.csv:1", "has no column 'name'", "commas", id="semicolons"),
        pytest.param("name,name\n", "stores.csv:1", "has two columns 'name'", "rename", id="twice"),
        pytest.param("name,label.a\n", "stores.csv:1", "'label.a' is not a field", "labels.<label>", id="mistyped"),
        pytest.param("name,variables.a:text\n", "stores.csv:1", "has an unknown type", ":int", id="type"),
        pytest.param('name\n"a\nb\n', "stores.csv:2", "is not CSV", "quotes", id="open quote"),
    ],
)
def test_a_table_that_cannot_be_read_takes_no_cluster_out_of_the_fleet(
    text: str, where: str, message: str, remedy: str
) -> None:
    finding = only_error(found := stores(text))
    assert finding.where == f"clusters/{where}"
    assert message in finding.message
    assert remedy in finding.remedy
    assert found.lost_clusters


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        pytest.param("{}", ":1", "is not a list", id="no list"),
        pytest.param('[\n{"name": "a"}\n{"name": "b"}]', ":3", "a comma is missing", id="no comma"),
        pytest.param('[{"name": "a"},\n {"name": }]', ":2", "is not JSON", id="no value"),
        pytest.param('[{"name": "a", "name": "b"}]', ":1", "a name is set twice", id="a name twice"),
        pytest.param('[{"name": "a", "variables": {"x": NaN}}]', ":1", "NaN is not a number", id="NaN"),
        pytest.param('[{"name": "a", "variables": {"x": 1e999}}]', ":1", "1e999 is too large a number", id="infinite"),
        pytest.param('[{"name": "a"},\n]', ":2", "is not JSON", id="a comma too much"),
        pytest.param("[] x", ":1", "has something after its list", id="more"),
        pytest.param("[", ":1", "is not JSON", id="open"),
        pytest.param("[" * 100_000, ":1", "is not JSON", id="deep"),
        pytest.param('[{"name": "a"},\n"b"]', ":2", "is not a mapping of columns", id="a text"),
        pytest.param('[\n\n{"name": "a", "labels": {"x": 1}}]', ":3", "metadata.labels.x is the number 1", id="label"),
        pytest.param('[{"name": "a", "labels": 1}]', ":1", "'labels' is not a field", id="labels"),
        pytest.param('[{"name": "a", "variables.x:int": 1}]', ":1", "has a type", id="a type"),
        pytest.param('[{"name": 1}]', ":1", "metadata.name is the number 1", id="a number for a name"),
    ],
)
def test_json_that_is_wrong_is_told_with_its_line(text: str, where: str, message: str) -> None:
    finding = only_error(found := listed(text))
    assert finding.where == f"clusters/stores.json{where}"
    assert message in finding.message
    assert found.lost_clusters


@pytest.mark.parametrize(
    ("spec", "message", "remedy"),
    [
        pytest.param("path: store.csv", "spec.path: there is no file 'clusters/store.csv'", "stores.csv", id="missing"),
        pytest.param("path: ../stores.csv", "spec.path is 'stores.csv'", "in clusters/", id="outside"),
        pytest.param("path: stores.xls", "spec.path is 'clusters/stores.xls'", ".csv or .json", id="another kind"),
        pytest.param("columns: {name: a}", "spec.path is missing", "stores.csv", id="no path"),
        pytest.param(
            "path: stores.csv, columns: {labels.a: b}", "spec.columns have no name", "which column", id="name"
        ),
        pytest.param(
            "path: stores.csv, columns: {name: a, label.a: b}",
            "'label.a' is not a field",
            "labels.<label>",
            id="no field",
        ),
        pytest.param("path: stores.csv, colums: {}", "spec.colums is not a known field", "'columns'", id="mistyped"),
    ],
)
def test_a_declaration_that_is_wrong_takes_no_cluster_out_of_the_fleet(spec: str, message: str, remedy: str) -> None:
    found = load(
        {"clusters/stores.yaml": TABLE.replace("path: stores.csv", spec), "clusters/stores.csv": "a,b,name\nx,y,z\n"}
    )
    first = found.findings[0]
    assert first.where.startswith("clusters/stores.yaml:")
    assert message in first.message
    assert remedy in first.remedy
    assert found.lost_clusters
    assert found.broken_clusters == frozenset()  # the table's own name is no cluster's


def test_a_table_is_read_once_and_only_when_it_is_named() -> None:
    files = {"clusters/stores.csv": STORES, "clusters/notes.json": "{}"}
    assert load(files) == Fleet()
    (finding,) = load({**files, "clusters/a.yaml": TABLE, "clusters/b.yaml": TABLE}).findings
    assert finding.where == "clusters/b.yaml:4"
    assert "is read already by clusters/a.yaml:1" in finding.message


def test_a_table_that_is_a_link_is_told() -> None:
    found = fleet.load(
        {
            "clusters/stores.yaml": TABLE.encode(),
            "clusters/stores.csv": InvalidInput("x", "is a symbolic link", "copy it"),
        }
    )
    assert only_error(found).message == "is a symbolic link"
    assert found.lost_clusters
    assert places.is_fleet_file("clusters/eu/stores.csv")
    assert not places.is_fleet_file("bundles/shop/stores.csv")


def test_a_fleet_of_thousands_is_read_with_each_row_at_its_place() -> None:
    rows = "".join(f"store-{n},1.36,eu,gold,{n}.example.org,{n},true\n" for n in range(5000))
    found = stores(STORES.splitlines(keepends=True)[0] + rows)
    assert found.findings == ()
    assert len(found.clusters) == 5000
    assert found.clusters[ClusterName("store-4999")].where == "clusters/stores.csv:5001"


def test_a_cluster_in_a_json_file_is_worth_a_warning() -> None:
    cluster = '{"apiVersion": "flotilla.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "eu-1"}}'
    (finding,) = load({"clusters/eu-1.json": cluster}).findings
    assert (finding.where, finding.severity, finding.remedy) == ("clusters/eu-1.json", "warning", "name it .yaml")

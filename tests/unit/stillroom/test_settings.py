"""Settings: a mistake stops the start with the key, the value and what is allowed; the environment comes last."""

import datetime
import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.settings import Settings, SettingsError, load_settings


def load(tmp_path, text: str, **environment: str) -> Settings:
    path = tmp_path / "stillroom.toml"
    path.write_text(text, "utf-8")
    return load_settings(path, environment)


def refusal(tmp_path, text: str, **environment: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, text, **environment)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_without_a_file_and_variables_the_defaults_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, {}) == Settings()


def test_the_file_of_this_folder_is_read_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stillroom.toml").write_text("[gateway]\nport = 9000")
    assert load_settings(None, {}).gateway.port == 9000


def test_a_whole_file_is_read(tmp_path):
    found = load(
        tmp_path,
        """
        home = "there"
        [teacher]
        base_url = "https://teacher.example/v1"
        price = { input = 2.5, output = 10, cached_input = 1.25 }
        [[teacher.fallbacks]]
        base_url = "https://other.example/v1"
        model = "other"
        [distill.training]
        layers = [0, 3]
        [aliases]
        "gpt-4o-mini" = "auto"
        """,
    )
    assert found.teacher.price.output == 10.0
    assert [(each.model, each.price) for each in found.teacher.fallbacks] == [("other", None)]
    assert found.distill.training.layers == (0, 3)
    assert found.aliases == {"gpt-4o-mini": "auto"}
    assert found.home_path.is_absolute()
    assert found.store_url.endswith("/there/ledger.sqlite")


def test_the_price_of_a_server_hour_is_exact(tmp_path):
    assert load(tmp_path, "[student]\ngpu_hour_cost = 2.10").student.gpu_hour_cost == Decimal("2.1")
    assert load(tmp_path, "", STILLROOM_STUDENT__GPU_HOUR_COST="0.123456789").student.gpu_hour_cost == Decimal(
        "0.123456789"
    )


REFUSED = {
    "no price of an hour": (
        '[student]\ngpu_hour_cost = "NaN"',
        "student.gpu_hour_cost = nan: must be between 0 and 1e+12",
    ),
    "a price of an hour below 0": ("[student]\ngpu_hour_cost = -1", "student.gpu_hour_cost = -1.0: must be between"),
    "a password in MLflow's address": (
        '[distill]\nmlflow_uri = "https://a:b@mlflow"',
        "mlflow_uri holds a user or a password",
    ),
    "a route that is none": ('[distill.data]\nroutes = ["cache"]', "distill.data.routes[0] = 'cache'"),
    "an unknown key": (
        "[gateway]\nprot = 1",
        "unknown setting gateway.prot = 1; allowed here: batches, drain_delay_seconds, drain_seconds, host, ",
    ),
    "an unknown table": ("[gatway]\nport = 1", "unknown setting gatway = {'port': 1}; allowed here: aliases, auth, "),
    "an unknown key far down": (
        "[teacher.price]\nper_token = 1",
        "unknown setting teacher.price.per_token = 1; allowed here: cached_input, input, output, request",
    ),
    "an ill-typed value": ('[gateway]\nport = "http"', "gateway.port = 'http': Expected `int`, got `str`"),
    "an ill-typed value far down": (
        '[distill.training]\nlayers = [0, "x"]',
        "distill.training.layers[1] = 'x': Expected `int`, got `str`",
    ),
    "a value in a table's place": ("gateway = 5", "gateway = 5: Expected a table, got `int`"),
    "a choice that does not exist": (
        '[distill]\napproval = "maybe"',
        "distill.approval = 'maybe': Invalid enum value 'maybe'",
    ),
    "an ill-typed alias": ("[aliases]\na = 'auto'\nb = 1", "aliases.b = 1: Expected `str`, got `int`"),
    "no authorisation off loopback": (
        '[auth]\nrequired = false\n[gateway]\nhost = "0.0.0.0"',
        "auth.required = false is taken on loopback only, and gateway.host is '0.0.0.0'; set auth.required",
    ),
    "an alias of nothing": (
        '[aliases]\nfast = "gpt-9"',
        "aliases.fast = 'gpt-9': an alias is a new name for one of auto, student, teacher",
    ),
    "an alias that hides a name": (
        '[aliases]\nteacher = "student"',
        "aliases.teacher = 'student': an alias is a new name for one of auto, student, teacher",
    ),
    "a certain target": (
        "[router]\nagreement_target = 1.0",
        "router.agreement_target = 1.0: must be above 0 and below 1",
    ),
    "a share above one": ("[router]\nexplore_share = 1.5", "router.explore_share = 1.5: must be between 0 and 1"),
    "a port that does not exist": ("[gateway]\nport = 70000", "gateway.port = 70000: must be between 0 and 65535"),
    "a negative price": (
        "[teacher]\nprice = {input = -1}",
        "teacher.price.input = -1.0: must be between 0 and 1e+12",
    ),
    "a price that is no number": ("[student]\nprice = {input = nan}", "student.price.input = nan: must be between 0"),
    "an endless wait": ("[teacher]\ntimeout_seconds = inf", "teacher.timeout_seconds = inf: must be between 0"),
    "a device that does not exist": (
        '[student]\ndevice = "tpu"',
        "student.device = 'tpu': must be one of auto, cpu, cuda",
    ),
    "an address that is none": (
        '[teacher]\nbase_url = "teacher.example/v1"',
        "teacher.base_url = 'teacher.example/v1': must be a URL as in http://",
    ),
    "a further teacher's unknown key": (
        '[[teacher.fallbacks]]\nbase_url = "http://a/v1"\nmodel = "m"\napi_key = "sk-1"',
        "teacher.fallbacks[0].api_key = (not shown); allowed here: api_key_env, base_url, model, price",
    ),
    "a further teacher's address that is none": (
        '[[teacher.fallbacks]]\nbase_url = "a/v1"\nmodel = "m"',
        "teacher.fallbacks[0].base_url = 'a/v1': must be a URL as in http://",
    ),
    "a further teacher's negative price": (
        '[[teacher.fallbacks]]\nbase_url = "http://a/v1"\nmodel = "m"\nprice = {input = -1}',
        "teacher.fallbacks[0].price.input = -1.0: must be between 0 and 1e+12",
    ),
    "no time at all": (
        "[gateway]\ntotal_timeout_seconds = 0",
        "gateway.total_timeout_seconds = 0.0: must be between 0.01 and 86400",
    ),
    "several servers that take each other's weights": (
        '[student]\nreplicas = 2\nswap = "in_place"',
        'student.replicas = 2 needs student.swap = "blue_green"',
    ),
    "an address by its name": (
        '[student]\naddress = "gpu-3.example"',
        "student.address = 'gpu-3.example': must be an IP address by which others reach this machine",
    ),
    "an address in brackets": ('[student]\naddress = "[::1]"', "student.address = '[::1]': must be an IP address"),
    "every address": ('[student]\naddress = "0.0.0.0"', "student.address = '0.0.0.0': must be an IP address"),
    "an address of one link only": (
        '[student]\naddress = "fe80::1%eth0"',
        "student.address = 'fe80::1%eth0': must be",
    ),
    "a swap in place over machines": (
        '[student]\naddress = "10.0.0.5"\nswap = "in_place"',
        "student.address = '10.0.0.5': swap = \"in_place\" is for students on loopback",
    ),
    "further students of none": (
        '[student]\nmore_base_urls = ["http://a/v1"]',
        "student.more_base_urls needs student.base_url, which is unset",
    ),
    "a further student's address that is none": (
        '[student]\nbase_url = "http://a/v1"\nmore_base_urls = ["b"]',
        "student.more_base_urls[0] = 'b': must be a URL",
    ),
    "names to look up where there are none": (
        "[student]\ndiscover = true",
        "student.discover needs student.base_url, which is unset",
    ),
    "certificates of addresses": (
        '[student]\nbase_url = "https://a/v1"\ndiscover = true',
        "student.discover takes http only, not 'https://a/v1'",
    ),
    "a student's address that is none": ('[student]\nbase_url = "http://[::1"', "student.base_url = 'http://[::1'"),
    "a home that is no path": ('home = "a\\u0000b"', "home = 'a\\x00b': must be the path of a folder"),
    "a home of nobody": ('home = "~nobody-of-this-name"', "home = '~nobody-of-this-name': must be the path"),
    "a floor that is no number": (
        '[distill.gate]\nslice_floors = {"tag:a" = 0.5, "tag:b" = "x"}',
        "distill.gate.slice_floors.tag:b = 'x': Expected `float`, got `str`",
    ),
    "a floor that is no share": (
        '[distill.gate]\nslice_floors = {"tag:a" = 1.5}',
        "the floor of tag:a is 1.5, and must be between 0 and 1",
    ),
    "a share of probes above one": (
        "[distill.gate]\nmin_probe_share = 2",
        "distill.gate.min_probe_share = 2.0: must be between 0 and 1",
    ),
    "no TOML": ("[gateway\nport = 1", "stillroom.toml cannot be read as TOML: "),
    "a key given twice": ("home = 'a'\nhome = 'b'", "cannot be read as TOML: Cannot overwrite a value"),
    "brackets without end": ("a = " + "[" * 100_000, "cannot be read as TOML: "),
}


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_named_with_its_value_and_what_is_allowed(tmp_path, text, says):
    assert says in refusal(tmp_path, text)


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path):
    message = refusal(tmp_path, '[teacher]\napi_key = "sk-live-1234"')
    assert message.startswith("unknown setting teacher.api_key = (not shown); allowed here: api_key_env, ")
    assert "sk-live" not in message


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"there is no settings file .*nothing\.toml"):
        load_settings(tmp_path / "nothing.toml", {})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path, {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(SettingsError, match=r"binary.toml cannot be read as TOML"):
        load_settings(tmp_path / "binary.toml", {})


def test_a_variable_comes_before_the_file_at_any_depth(tmp_path):
    found = load(
        tmp_path,
        '[gateway]\nport = 1\nhost = "localhost"\n[distill.training]\nepochs = 2',
        STILLROOM_GATEWAY__PORT="2",
        STILLROOM_TEACHER__BASE_URL="https://teacher.example/v1",
        STILLROOM_TEACHER__PRICE__INPUT="2.5",
        STILLROOM_DISTILL__TRAINING__LAYERS="[0, 2]",
        STILLROOM_ALIASES='{"gpt-4o-mini" = "auto"}',
        STILLROOM_AUTH__REQUIRED="false",
        PATH="/bin",
        STILLROOMS="x",
    )
    assert (found.gateway.port, found.gateway.host) == (2, "localhost")
    assert found.teacher.base_url == "https://teacher.example/v1"
    assert found.teacher.price.input == 2.5
    assert (found.distill.training.layers, found.distill.training.epochs) == ((0, 2), 2)
    assert found.aliases == {"gpt-4o-mini": "auto"}
    assert not found.auth.required


@pytest.mark.parametrize("order", [1, -1])
def test_a_key_comes_after_its_table_in_whatever_order_the_environment_has_them(order):
    variables = [
        ("STILLROOM_TEACHER", '{model = "table", top_logprobs = 3}'),
        ("STILLROOM_TEACHER__MODEL", "key"),
    ]
    found = load_settings(None, dict(variables[::order]))
    assert (found.teacher.model, found.teacher.top_logprobs) == ("key", 3)


@pytest.mark.parametrize("text", ["4", "1.5", "true", "2024-01-01", "[1]", "plain", '"quoted"', "# no comment", ""])
def test_a_variable_for_a_text_is_a_text_whatever_it_looks_like(text):
    found = load_settings(None, {"STILLROOM_TEACHER__MODEL": text, "STILLROOM_STORE__URL": text})
    assert found.teacher.model == found.store.url == text.strip('"')


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        pytest.param(
            "STILLROOM_GATEWAY__PORT",
            "http",
            "STILLROOM_GATEWAY__PORT: gateway.port = 'http': Expected `int`",
            id="type",
        ),
        pytest.param(
            "STILLROOM_GATEWAY__PROT", "1", "unknown setting gateway.prot = 1; allowed here: batches", id="key"
        ),
        pytest.param(
            "STILLROOM_HOME__X", "1", "STILLROOM_HOME__X = 1: home is a value ('var'), not a table", id="no table"
        ),
        pytest.param("STILLROOM_GATEWAY", "5", "STILLROOM_GATEWAY: gateway = 5: Expected a table", id="a table"),
        pytest.param("STILLROOM_", "5", "unknown setting  = 5; allowed here: aliases", id="no key"),
        pytest.param("STILLROOM_AUTH__REQUIRED", "yes", "auth.required = 'yes': Expected `bool`", id="a word"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable_or_the_key(tmp_path, name, text, says):
    assert says in refusal(tmp_path, 'home = "var"', **{name: text})


def leaves(shape: Any, where: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field in msgspec.structs.fields(shape):
        path = (*where, field.encode_name)
        found += [path]
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found += leaves(field.type, path)
    return found


SCALAR = (
    st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, math.nan, math.inf, -math.inf])
    | st.floats()
    | st.text()
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.just(datetime.UTC))
)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(leaves(Settings)), VALUE)
def test_any_value_of_any_key_gives_settings_or_a_settings_error(path, value):
    """As if the parsed file held it: everything that TOML can express, at each key that there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tomllib.loads", lambda _text: nested(path, value))
        patch.setattr("pathlib.Path.read_text", lambda *_args: "")
        try:
            found = load_settings(None, {})
        except SettingsError as error:
            assert str(error)
        else:
            assert isinstance(found, Settings)
            assert found.home_path.is_absolute()


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(leaves(Settings)), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_of_any_variable_gives_settings_or_a_settings_error(path, text):
    try:
        found = load_settings(None, {"STILLROOM_" + "__".join(path).upper(): text})
    except SettingsError as error:
        assert str(error)
    else:
        assert isinstance(found, Settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param('[router]\ncomparator = "exactly"', "router.comparator = 'exactly': must be one of", id="name"),
        pytest.param('[router.comparators]\nsums = "number"', "router.comparators.sums = 'number': must", id="tag"),
        pytest.param('[router]\ncomparator = "embedding"', "needs embeddings.base_url", id="no-embeddings"),
        pytest.param(
            '[router]\ncomparator = "judge"\njudge_calls_per_hour = 0', "judge_calls_per_hour above 0", id="no-judge"
        ),
        pytest.param("[router]\nlikelihood_floor = 0.5", "must be between -100 and 0", id="log-probability"),
    ],
)
def test_a_comparator_is_one_that_there_is_and_that_can_be_asked(tmp_path, text, says):
    assert says in refusal(tmp_path, text)


def test_comparators_are_named_by_tag_and_model(tmp_path):
    found = load(tmp_path, '[router.comparators]\nsums = "numeric"\n"gpt-4o-mini" = "judge"\n')
    assert found.router.comparators == {"sums": "numeric", "gpt-4o-mini": "judge"}


ADAPTER = {
    "STILLROOM_STUDENT__SWAP": "adapter",
    "STILLROOM_DISTILL__START_FROM": "base",
    "STILLROOM_DISTILL__TRAINING__LORA_RANK": "8",
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"STILLROOM_DISTILL__START_FROM": "champion"}, "start_from"),
        ({"STILLROOM_DISTILL__TRAINING__LORA_RANK": "32"}, "lora_rank of 1 to 16"),
        ({"STILLROOM_DISTILL__TRAINING__LAYERS": "[0, 2]"}, "layers unset"),
    ],
)
def test_adapters_need_one_set_of_weights_below_them_all(change, says):
    assert load_settings(None, ADAPTER).student.swap == "adapter"
    with pytest.raises(SettingsError, match=says):
        load_settings(None, ADAPTER | change)

"""Requests drawn from the OpenAPI description find no 5xx; part of CI (extra `webtest`)."""

import pytest
import served

schemathesis = pytest.importorskip("schemathesis", reason="needs xclip_jax[webtest]")

hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = 25  # an operation
DRAWN = hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture(scope="module")
def described(shapes, run, tmp_path_factory):
    """The application as schemathesis sees it, and the id of a video."""
    searcher = served.index_of(shapes, run, tmp_path_factory.mktemp("served"))
    made = served.serving(searcher)
    client = served.client(made, local=False)  # any host's name
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    yield schema, client.get("/api/videos").json()["videos"][0]["id"]
    made.close()


@pytest.mark.parametrize("known", [True, False], ids=["a video of the index", "any id"])
def test_no_request_of_the_description_makes_the_server_fail(described, known):
    schema, sha256 = described
    statuses = {}

    def ask(case):
        if known and "id" in (case.path_parameters or {}):
            case.path_parameters["id"] = sha256
        answer = case.call()
        case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])
        statuses.setdefault(case.operation.label, set()).add(answer.status_code)

    for operation in (found.ok() for found in schema.get_all_operations()):
        DRAWN(hypothesis.given(operation.as_strategy())(ask))()

    assert len(statuses) == 12
    answered = [label for label, found in statuses.items() if 200 in found]
    assert len(answered) >= (8 if known else 3), statuses

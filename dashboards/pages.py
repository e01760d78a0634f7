"""The handlers of the ops pages."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import Router

from dashboards.audit_page import audit_log
from dashboards.distillation import dataset_preview, distillation
from dashboards.failures import Answer, in_words
from dashboards.job_page import job, job_part
from dashboards.keys_page import key_page, keys_list
from dashboards.login import login
from dashboards.overview import overview
from dashboards.release_page import release, release_report
from dashboards.releases_page import releases
from dashboards.request_page import one_request, request_erasure, request_feedback, request_replays
from dashboards.router_page import router, router_estimates
from dashboards.serving_page import serving, serving_now
from dashboards.site import static_file
from dashboards.traffic import traffic

__all__ = ("handlers", "pages")

handlers: Final = [
    overview,
    traffic,
    one_request,
    request_erasure,
    request_feedback,
    request_replays,
    router,
    router_estimates,
    distillation,
    dataset_preview,
    job,
    job_part,
    releases,
    release,
    release_report,
    keys_list,
    key_page,
    serving,
    serving_now,
    audit_log,
    login,
    static_file,
]


def pages(answers: Mapping[Any, Answer]) -> Router:
    """All of them. ``answers`` are the gateway's to errors, which people see in words."""
    return Router("/", route_handlers=handlers, exception_handlers=in_words(answers))

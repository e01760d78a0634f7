"""Where this machine's students listen, and the key that they ask for where others than this machine reach them."""

import os
from ipaddress import ip_address
from typing import Final

from serving.settings import StudentSettings

__all__ = ("LOOPBACK", "AddressError", "address_problem", "key_asked_for", "root_url")

LOOPBACK: Final = "127.0.0.1"


class AddressError(ValueError):
    """Students cannot listen there, or not without a key; the message says how to mend it."""


def address_problem(settings: StudentSettings) -> str | None:
    """What is wrong with ``address`` as it is written, in one line: others are to be told it."""
    address, said = settings.address, f"student.address = {settings.address!r}"
    try:
        found = ip_address(address)
    except ValueError:
        found = None
    if found is None or found.is_unspecified or found.is_multicast or "%" in address:
        return f"{said}: must be an IP address by which others reach this machine"
    if not found.is_loopback and settings.swap == "in_place":
        return (
            f'{said}: swap = "in_place" is for students on loopback, of one machine; '
            'set student.swap = "blue_green" or "adapter"'
        )
    return None


def root_url(address: str, port: int) -> str:
    """``http://10.0.0.5:8000``, ``http://[fd00::5]:8000``."""
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def key_asked_for(settings: StudentSettings) -> str:
    """What whoever asks this machine's students has to send; empty on loopback. Raises `AddressError`."""
    if ip_address(settings.address).is_loopback:
        return ""
    key = os.environ.get(settings.api_key_env, "")
    if not key:
        raise AddressError(
            f"student.address = {settings.address!r}: off loopback students ask for a key, and "
            f"{settings.api_key_env} (student.api_key_env) is not set; every gateway, worker and serve needs it"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise AddressError(f"{settings.api_key_env}: a key has printable ASCII only, no blanks and no line ends")
    return key

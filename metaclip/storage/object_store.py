"""Access to stores: file systems of fsspec, errors as one line, and no secrets in files and messages.

Addresses and credentials are found as every AWS tool finds them (AWS_ENDPOINT_URL, AWS_PROFILE, ~/.aws), and as every tool
of the Hugging Face Hub finds them (HF_ENDPOINT, HF_TOKEN, hf auth login). No path may contain a secret, because paths are
written to manifests and messages. The clients retry requests that fail for a moment: six tries in all, over 15 seconds for
S3 and 23 for the Hub.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from metaclip.errors import AlreadyExists, MetaclipError, StoreError, install_hint, one_line

_PACKAGES: Final = {"s3": "s3", "s3a": "s3", "hf": "hub"}
"""The extra that each scheme needs."""
_HINTS: Final = {
    "s3": {
        "access": "check the credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID) and the bucket's policy",
        "network": "check AWS_ENDPOINT_URL and the network, and run the same command again",
    },
    "hf": {
        "access": "log in with hf auth login, or set HF_TOKEN; a gated repository asks for consent on its page",
        "network": "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and run the same command again",
    },
}
"""What to do about a refused or failed request, by the extra; that of S3 is for other stores too."""
_RETRIES: Final = {"mode": "standard", "max_attempts": 6}
_LOGIN: Final = re.compile(r"//[^/\s@]+@")
_SIGNED: Final = re.compile(r"[?&](?:x-amz-[a-z-]+|awsaccesskeyid|signature|sig|token|key|secret)=", re.I)


def refuse_secrets(url: str) -> str:
    """Return the address. Raise MetaclipError if it contains a password or a signature."""
    if "://" in url and (_LOGIN.search(url) or _SIGNED.search(url)):
        raise MetaclipError(
            f"the address {without_secrets(url)} holds a password or a signature, and would be written to manifests; give it "
            "without, and put credentials into the environment or ~/.aws/credentials"
        )
    return url


def without_secrets(text: str) -> str:
    """Return a text with passwords and signatures removed from its addresses."""
    text = _LOGIN.sub("//", text)
    return re.sub(r"(://[^\s?\"']+)\?[^\s\"']*", r"\1", text) if _SIGNED.search(text) else text


@contextlib.contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Turn the exceptions of store clients into a StoreError of one line; FileNotFoundError stays if a file is missing."""
    try:
        yield
    except (MetaclipError, KeyboardInterrupt):
        raise
    except ImportError as error:
        extra = _PACKAGES.get(url.partition("://")[0])
        how = install_hint(extra) if extra else f"install it ({one_line(error, 120)})"
        raise StoreError(f"{url} needs a package that is not installed; {how}") from None
    except FileNotFoundError as error:
        if error_code(error) == "NoSuchBucket":
            raise StoreError(
                f"{url}: there is no such bucket; create it, or check its name and AWS_ENDPOINT_URL"
            ) from None
        raise
    # Each client has exceptions of its own, which depend on what is installed.
    except Exception as error:
        kind = type(error).__name__
        hints = _HINTS.get(url.partition("://")[0], _HINTS["s3"])
        if isinstance(error, PermissionError) or _status(error) in (401, 403):
            raise StoreError(f"{url}: access is refused ({_summary(error)}); {hints['access']}") from None
        if "Credentials" in kind:
            raise StoreError(
                f"{url}: no credentials are found ({_summary(error)}); set AWS_PROFILE or AWS_ACCESS_KEY_ID"
            ) from None
        if "Connect" in kind or "Timeout" in kind or "Offline" in kind:
            raise StoreError(
                f"{url}: the store cannot be reached ({_summary(error)}); {hints['network']}"
            ) from None
        if _is_taken(error):
            raise AlreadyExists(f"{url} was written by another process") from None
        raise StoreError(
            f"{url} cannot be read or written ({_summary(error)}); run the same command again"
        ) from error


@contextlib.contextmanager
def opened_store(url: str) -> Iterator[tuple[Any, str]]:
    """Yield the file system of an address, and the path in it.

    Raise MetaclipError for an address that contains a secret. Exceptions of store clients that are raised in the block become
    a StoreError of one line, except FileNotFoundError for a missing file.
    """
    with translate_errors(refuse_secrets(url)):
        yield file_system(url)


def _summary(error: BaseException) -> str:
    return without_secrets(one_line(error, 160)).rstrip(".")


def _status(error: BaseException) -> int | None:
    """Return the status code of the Hub's answer that an error is about; None for the errors of other clients."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def error_code(error: BaseException | None) -> str:
    """Return the error code of S3; "" if there is none."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict) and (code := answer.get("Error", {}).get("Code")):
            return str(code)
        error = error.__cause__ or error.__context__
    return ""


def _is_taken(error: BaseException) -> bool:
    """Return whether a conditional put failed because of its condition."""
    taken = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
    return isinstance(error, FileExistsError) or error_code(error) in taken


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for an address, and the path in it; a path on the Hub with its commit."""
    if "::" in url:  # a chain, such as simplecache::s3://
        import fsspec

        fs, path = fsspec.core.url_to_fs(url)
        return fs, str(path)
    scheme, _, rest = url.partition("://")
    scheme, url = scheme.lower(), f"{scheme.lower()}://{rest}"
    # One for all threads of a process: fsspec would create one for each, and a client of S3 takes 0.3 s to create.
    fs = _open_file_system(scheme, os.getpid())
    if scheme == "hf":
        return fs, fs.pinned(rest.rstrip("/"))
    return fs, str(fs._strip_protocol(url)) if scheme not in _PACKAGES else rest.rstrip("/")


@functools.lru_cache
def _open_file_system(scheme: str, pid: int) -> Any:
    import fsspec

    if scheme in ("http", "https"):
        from metaclip.storage.web import WebFileSystem

        return WebFileSystem(skip_instance_cache=True)
    if scheme == "hf":
        from metaclip.storage.hub import HubFileSystem

        return HubFileSystem(skip_instance_cache=True)
    if scheme not in _PACKAGES:
        return fsspec.filesystem(scheme)
    config = {"retries": _RETRIES, **fsspec.config.conf.get("s3", {}).get("config_kwargs", {})}
    return fsspec.filesystem(
        scheme, skip_instance_cache=True, use_listings_cache=False, config_kwargs=config
    )

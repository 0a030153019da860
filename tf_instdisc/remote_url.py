"""The schemes of URLs, and the extras that they need."""

from tf_instdisc.errors import MissingExtraError, UsageError, require_extra

_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), ("s3", "s3fs")),
    **dict.fromkeys(("gs", "gcs"), ("gcs", "gcsfs")),
    **dict.fromkeys(("abfs", "abfss", "az"), ("azure", "adlfs")),
}


def is_web(url: str) -> bool:
    """Returns whether a URL is a web address, which names a single file."""
    return url.startswith(("http://", "https://"))


def check_url(url: str, name: str) -> None:
    """Raises unless the scheme of a URL can be opened; uses no network.

    Args:
        url: The URL.
        name: The argument or flag for which it was given.

    Raises:
        UsageError: If fsspec does not know the scheme.
        MissingExtraError: If a package is missing.
    """
    import fsspec

    scheme = url.partition(":")[0]
    if scheme not in fsspec.available_protocols():
        known = ", ".join(sorted(fsspec.available_protocols()))
        raise UsageError(
            f"`{name}` must be a path, or a URL with a scheme of fsspec "
            f"({known}). Received: {name}={url!r}. Copy the files here, or "
            "mount the remote file system and give its path."
        )
    if scheme in _EXTRAS:
        try:
            require_extra(*_EXTRAS[scheme])
        except MissingExtraError as error:
            raise MissingExtraError(f"`{name}` is {url!r}. {error}") from error
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise MissingExtraError(
            f"`{name}` must be a path, or a URL whose packages are installed. "
            f"Received: {name}={url!r}. {error}."
        ) from error

"""The certificates of a client, read before anything is sent."""

import ssl

from tf_instdisc.errors import UsageError


def tls_context(root_certificates: str | None) -> ssl.SSLContext:
    """Returns a context that trusts an authority, by default the system's.

    Raises:
        FileNotFoundError: If the file is missing.
        UsageError: If it is not a PEM file of certificates.
    """
    try:
        return ssl.create_default_context(cafile=root_certificates)
    except ssl.SSLError as error:
        raise UsageError(
            "`root_certificates` must be a PEM file of certificates. Received: "
            f"root_certificates={root_certificates!r} ({error})"
        ) from error


def check_pem_files(
    root_certificates: str, private_key: str | None, chain: str | None
) -> None:
    """Raises the errors that gRPC reports late, or by ending the process.

    Raises:
        FileNotFoundError: If a file is missing.
        UsageError: If a file is not PEM, or the key is not that of the
            certificate.
    """
    context = tls_context(root_certificates)
    if (private_key is None) != (chain is None):
        raise UsageError(
            "`private_key` and `certificate_chain` are given together. "
            f"Received: private_key={private_key!r}, "
            f"certificate_chain={chain!r}. Give both, or neither."
        )
    if chain is None:
        return
    try:
        # An encrypted key fails, instead of asking for its password.
        context.load_cert_chain(chain, private_key, password="")
    except ssl.SSLError as error:
        raise UsageError(
            "`private_key` and `certificate_chain` must be PEM files of a key "
            "without a password and of its certificate. Received: "
            f"private_key={private_key!r}, certificate_chain={chain!r} "
            f"({error})"
        ) from error

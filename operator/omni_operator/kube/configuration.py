"""Makes the official client's configuration: from this pod's service account, or from a context of the kubeconfig.

The official client is imported late, because it takes most of the process's memory.
"""

import binascii
import os
import ssl
from socket import socket
from typing import Any

from omni_operator.kube.kubeconfig import Kubeconfig, read_kubeconfig
from omni_operator.kube.proxies import environment_proxy


def load_configuration(context: str | None = None, kubeconfig: str | None = None) -> tuple[Any, bool]:
    """The official client's configuration, and whether it is that of a service account inside the cluster.

    `context` names a context of the kubeconfig. Without `context` and `kubeconfig`: this pod's service account if there
    is one, otherwise the kubeconfig's current context. Its proxy is the context's `proxy-url`, which always applies,
    or that of the environment. Raises NoCredentials, BrokenKubeconfig.
    """
    from kubernetes import client, config

    # Empty, not None: the official client would take proxies from the environment for loopback addresses too.
    configuration = client.Configuration(proxy="", no_proxy="")
    is_inside = context is None and kubeconfig is None and _load_service_account(config, configuration)
    if not is_inside:
        _load_kubeconfig(config, configuration, context, read_kubeconfig(kubeconfig))
    configuration.proxy = configuration.proxy or environment_proxy(configuration.host)
    return configuration, is_inside


def _load_service_account(config: Any, configuration: Any) -> bool:
    try:
        config.load_incluster_config(configuration)
    except config.ConfigException:
        return False
    return True


def _load_kubeconfig(config: Any, configuration: Any, context: str | None, files: Kubeconfig) -> None:
    """Raises BrokenKubeconfig."""
    name = files.select(context)
    user = files.users().get(files.contexts()[name].user, {})
    where = f"context {name!r}"
    try:
        config.load_kube_config(
            os.pathsep.join(map(str, files.paths)), context=name, client_configuration=configuration
        )
        tls_context(configuration)
    except binascii.Error as error:
        raise files.broken(f"{where} has data that is not base64 ({error})", "correct it") from None
    except ssl.SSLError as error:
        problem = f"{where} has a certificate or key that cannot be read ({error.reason or error})"
        raise files.broken(problem, "expected PEM") from None
    except (config.ConfigException, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise files.broken(f"{where}: {error}", "correct it, or select another with --context") from None
    plugin = (user.get("exec") or {}).get("command")
    if plugin and not (configuration.api_key or configuration.cert_file):
        problem = f"the plugin {plugin!r} of {where} gave no credentials"
        raise files.broken(problem, "run it by hand to see why, or log in again")


class NamedServerContext(ssl.SSLContext):
    """TLS settings for a server whose certificate has another name than its address: kubeconfig's tls-server-name.

    Every client that is given this context asks for that name and checks it, whatever address it connects to.
    """

    server_name: str | None = None

    def wrap_socket(
        self,
        sock: socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        name = self.server_name or server_hostname
        return super().wrap_socket(sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, name, session)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name or server_hostname, session)


def tls_context(configuration: Any) -> ssl.SSLContext:
    """TLS settings for another HTTP client that talks to the same server. Raises OSError for unusable files."""
    context = NamedServerContext(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = configuration.tls_server_name
    if configuration.ssl_ca_cert:
        context.load_verify_locations(configuration.ssl_ca_cert)
    else:
        context.load_default_certs()
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context

"""ssh's options: which of them a pasted login line may bring, and the values that they may have.

An allow-list. What is not on it is refused by its name if it is a name of ssh, else described: a list of forbidden names is got
round by quotes, blanks and other spellings. What is kept is written anew from the checked name and value.

Covers: OpenSSH 9 (ssh(1), ssh_config(5)) and older names of the same. Does not cover: user, port and machine (`login_parts`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..common.errors import SettingError
from .key_paths import read_path
from .login_parts import EXAMPLE, read_host, read_place, read_port, read_user

SWITCHES = frozenset("246AaCfGgKkMNnqsTtVvXxYy")
"""Options without a value. None but 4 and 6 changes where a tunnel leads; the others are left out, -A too: it lends keys."""
WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
LETTERS = {"i": "IdentityFile", "J": "ProxyJump", "l": "User", "p": "Port", "c": "Ciphers", "m": "MACs", "L": "LocalForward"}
"""Letters that are a setting by another name, and may be in a login line."""
MEANINGS = {
    "D": "DynamicForward", "R": "RemoteForward", "I": "PKCS11Provider", "F": "another configuration file", "E": "a log file",
    "S": "ControlPath", "W": "a forwarding of its own", "w": "a network device of its own", "P": "a tag; the port is a small -p",
}  # fmt: skip
WORDS = (
    "AddKeysToAgent AddressFamily BatchMode BindAddress BindInterface CASignatureAlgorithms CanonicalDomains CanonicalizeFallbackLocal "
    "CanonicalizeHostname CanonicalizeMaxDots CanonicalizePermittedCNAMEs CertificateFile ChallengeResponseAuthentication ChannelTimeout "
    "CheckHostIP Cipher Ciphers ClearAllForwardings Compression CompressionLevel ConnectTimeout ConnectionAttempts ControlMaster "
    "ControlPath ControlPersist DSAAuthentication DynamicForward EnableEscapeCommandline EnableSSHKeysign EscapeChar ExitOnForwardFailure "
    "FingerprintHash ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout ForwardX11Trusted GSSAPIAuthentication "
    "GSSAPIClientIdentity GSSAPIDelegateCredentials GSSAPIKexAlgorithms GSSAPIKeyExchange GSSAPIRenewalForcesRekey "
    "GSSAPIServerIdentity GSSAPITrustDns GatewayPorts GlobalKnownHostsFile HashKnownHosts Host HostKeyAlgorithms HostKeyAlias HostName "
    "HostbasedAcceptedAlgorithms HostbasedAuthentication HostbasedKeyTypes IPQoS IdentitiesOnly IdentityAgent IdentityFile "
    "IgnoreUnknown Include KbdInteractiveAuthentication KbdInteractiveDevices KeepAlive KexAlgorithms KnownHostsCommand LocalCommand "
    "LocalForward LogLevel LogVerbose MACs Match NoHostAuthenticationForLocalhost NumberOfPasswordPrompts ObscureKeystrokeTiming "
    "PKCS11Provider PasswordAuthentication PermitLocalCommand PermitRemoteOpen Port PreferredAuthentications Protocol ProxyCommand "
    "ProxyJump ProxyUseFdpass PubkeyAcceptedAlgorithms PubkeyAcceptedKeyTypes PubkeyAuthentication RSAAuthentication RekeyLimit "
    "RemoteCommand RemoteForward RequestTTY RequiredRSASize RevokedHostKeys RhostsRSAAuthentication SecurityKeyProvider SendEnv "
    "ServerAliveCountMax ServerAliveInterval SessionType SetEnv SmartcardDevice StdinNull StreamLocalBindMask StreamLocalBindUnlink "
    "StrictHostKeyChecking SyslogFacility TCPKeepAlive Tag Tunnel TunnelDevice UpdateHostKeys UseKeychain User UserKnownHostsFile "
    "VerifyHostKeyDNS VisualHostKey WarnWeakCrypto XAuthLocation"
)
NAMES = {name.lower(): name for name in WORDS.split()}
"""Every name that ssh has or had for a setting, by its lower case."""
YES_NO, NUMBER, TIME = r"(?i:yes|no|true|false)", r"\d{1,7}", r"\d{1,6}[smhdwSMHDW]?"
ALGORITHMS = r"[+^-]?[A-Za-z0-9@.*_-]+(?:,[A-Za-z0-9@.*_-]+)*"
SWITCHED = (
    "BatchMode ChallengeResponseAuthentication CheckHostIP GSSAPIAuthentication HashKnownHosts HostbasedAuthentication IdentitiesOnly "
    "KbdInteractiveAuthentication NoHostAuthenticationForLocalhost PasswordAuthentication TCPKeepAlive VisualHostKey"
)
COUNTED = "ConnectionAttempts NumberOfPasswordPrompts RequiredRSASize ServerAliveCountMax"
CHOSEN = "Ciphers HostKeyAlgorithms KexAlgorithms MACs PubkeyAcceptedAlgorithms PubkeyAcceptedKeyTypes"
VALUES = {
    **dict.fromkeys(SWITCHED.split(), YES_NO),
    **dict.fromkeys(COUNTED.split(), NUMBER),
    **dict.fromkeys(CHOSEN.split(), ALGORITHMS),
    **dict.fromkeys(("ConnectTimeout", "ServerAliveInterval"), TIME),
    **dict.fromkeys(("UpdateHostKeys", "VerifyHostKeyDNS"), r"(?i:yes|no|ask)"),
    "AddressFamily": r"(?i:any|inet6?)",
    "LogLevel": r"(?i:quiet|fatal|error|info|verbose|debug[123]?)",
    "PreferredAuthentications": r"[a-z-]+(?:,[a-z-]+)*",
    "PubkeyAuthentication": rf"{YES_NO}|unbound|host-bound",
    "StrictHostKeyChecking": r"(?i:yes|no|ask|off|accept-new|true|false)",
}
"""LoginSettings that are kept, and what their value must be as a whole."""
FILES = frozenset({"UserKnownHostsFile", "GlobalKnownHostsFile", "CertificateFile"})
OF_A_SESSION = (
    "AddKeysToAgent Compression CompressionLevel ControlMaster ControlPath ControlPersist DSAAuthentication EscapeChar "
    "ExitOnForwardFailure ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout ForwardX11Trusted IPQoS IgnoreUnknown "
    "KeepAlive LocalForward Protocol RSAAuthentication RequestTTY SendEnv SessionType SetEnv StdinNull UseKeychain"
)
LEFT_OUT = frozenset(OF_A_SESSION.split())
"""LoginSettings of a shell session, of a shared connection, or of the ports that are asked for here: a tunnel is the same without them."""
LOADING = "KnownHostsCommand LocalCommand PKCS11Provider PermitLocalCommand ProxyCommand RemoteCommand SecurityKeyProvider XAuthLocation"
RUNS = frozenset(LOADING.split())
ELSEWHERE = "Leave it out, or put it into ~/.ssh/config of your own computer and give the alias here: ssh ALIAS"


@dataclass
class LoginSettings:
    """What the options of one login say, checked."""

    host: str = ""
    user: str = ""
    port: int = 0
    kept: list[str] = field(default_factory=list)

    def take_letter(self, letter: str, value: str) -> None:
        """One option of the command line."""
        if letter in "46":
            self.kept += ["-o", f"AddressFamily={'inet6' if letter == '6' else 'inet'}"]
        elif letter == "o":
            self.take(*_name_and_value(value))
        elif letter in LETTERS:
            self.take(LETTERS[letter], value)
        elif letter in WITH_VALUE and (letter not in "Se" or value != "none"):
            meaning = f" ({MEANINGS[letter]})" if letter in MEANINGS else ""
            raise SettingError(f"The option -{letter}{meaning} is not for a login line.", ELSEWHERE)

    def take(self, name: str, value: str) -> None:
        """One setting by its name in ssh_config(5); first come, first served, as ssh does it."""
        known = NAMES.get(name.lower(), "")
        if known == "Port":
            self.port = self.port or read_port(value)
        elif known == "User":
            user = read_user(value)
            self.user = self.user or user
        elif known == "HostName":
            self.host = self.host or read_host(value)
        elif known == "IdentityFile":
            self.kept += [] if value.lower() == "none" else ["-i", read_path(value)]
        elif known == "ProxyJump":
            self.kept += ["-J", _jumps(value)]
        elif known in FILES:
            self.kept += ["-o", f"{known}={_file(known, value)}"]
        elif known in VALUES:
            self.kept += ["-o", f"{known}={_checked(known, value)}"]
        elif known not in LEFT_OUT:
            raise _refused(known)


NAMED = re.compile(rf"(?im)(?:-o[ \t]*[\"']?[ \t]*|^[ \t]*\"?)({'|'.join(sorted(RUNS))})\b\"?(?=[ \t=])")
ANOTHER = re.compile(
    r"\$\([ \t]*ssh[ \t]|^[ \t]*(?:;|&&|\|\|)[ \t]*\w|^[ \t]*(?:sudo[ \t]+)?rm[ \t]+-|^\|[ \t]*(?:ba|z)?sh[ \t]*$"
    r"|^[ \t]*\$\([^\n]*\)[ \t]*$|\b(?:curl|wget)\b[^\n]*\|[ \t]*(?:sudo[ \t]+)?(?:ba|z)?sh\b",
    re.MULTILINE,
)
"""What runs beside the login, wherever it stands, and whatever was read."""


def refuse_beside(text: str) -> None:
    """Refuse a paste that names, anywhere in it, a setting that runs programs, or that brings a harmful command with the login."""
    if named := NAMED.search(text):
        raise _refused(NAMES[named.group(1).lower()])
    if ANOTHER.search(text):
        raise SettingError("Beside the login stands a second command.", f"Give only the login: {EXAMPLE}")


def _refused(name: str) -> SettingError:
    if not name:
        return SettingError("A setting in the login line has a name that ssh does not have.", ELSEWHERE)
    why = "makes ssh run a program or load its code" if name in RUNS else "is not one that a pasted login may bring"
    return SettingError(f"The option {name} {why}.", ELSEWHERE)


def _name_and_value(text: str) -> tuple[str, str]:
    """Name=value or "Name value", as behind -o. Any other spelling is refused, by the name of ssh that is in it if there is one."""
    plain = re.fullmatch(r"\s*([A-Za-z][A-Za-z0-9]*)(?:[ \t]*=[ \t]*|[ \t]+)(\"?)([^\"]+)\2\s*", text)
    if plain and plain.group(1).lower() in NAMES:
        return plain.group(1), plain.group(3).strip()
    letters = re.sub(r"[^a-z0-9]", "", text.lower())
    inside = max((name for name in NAMES if letters.startswith(name)), key=len, default="")
    if inside and NAMES[inside] in VALUES.keys() | LEFT_OUT | FILES | {*LETTERS.values(), "HostName"}:
        raise SettingError(f"The option {NAMES[inside]} is not written as ssh wants it.", "Write it as -o Name=value, or leave it out.")
    raise _refused(NAMES.get(inside, ""))


def _checked(name: str, value: str) -> str:
    if not re.fullmatch(VALUES[name], value):
        raise SettingError(f"The option {name} has a value that it cannot have.", "Leave the option out, or look it up: man ssh_config")
    return value


def _file(name: str, value: str) -> str:
    path = read_path(value)
    if " " in path or "'" in path:
        raise SettingError(f"The option {name} has a path with blanks or quotes.", ELSEWHERE)
    return path.replace("\\", "/")


def _jumps(value: str) -> str:
    """[user@]host[:port], several with commas between, or "none"; each is checked and written anew."""
    jumps = []
    for word in value.split(","):
        host, user, port = read_place(word)
        bracketed = f"[{host}]" if ":" in host else host
        jumps.append((f"{user}@" if user else "") + bracketed + (f":{port}" if port else ""))
    return ",".join(jumps)

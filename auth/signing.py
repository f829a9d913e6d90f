"""The keys that our access tokens are signed with."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, KeySetSerialization

from mcpgw.auth.keyfiles import private_file
from mcpgw.errors import UsageError

ALGORITHM = "ES256"


class SigningKeys:
    """Keys on P-256: the first signs, all verify. `kid` is the RFC 7638 thumbprint."""

    def __init__(self, *keys: ECKey) -> None:
        for key in keys:
            if key.curve_name != "P-256" or not key.is_private:
                raise ValueError("ES256 takes private keys on P-256 (RFC 7518 §3.4)")
        self.current = keys[0]
        self._by_kid = {key.thumbprint(): key for key in keys}
        self.kid = keys[0].thumbprint()
        self.generation = "".join(sorted(self._by_kid)).encode()
        self._published = KeySet([_public(key) for key in keys])

    @classmethod
    def load(cls, data_dir: Path) -> SigningKeys:
        """Return the key in `keys/token-signing.pem`, making it at the first start. Raises UsageError."""
        path = data_dir / "keys" / "token-signing.pem"
        pem = private_file(path, _new_pem)
        try:
            return cls(ECKey.import_key(pem))
        except (ValueError, TypeError, JoseError):
            raise UsageError(
                f"{path} is not an unencrypted private key on P-256", fix="restore it, or remove it to void all tokens"
            ) from None

    def find(self, kid: str) -> ECKey | None:
        return self._by_kid.get(kid)

    def jwks(self) -> KeySetSerialization:
        """Return the public keys (RFC 7517 §5)."""
        return self._published.as_dict(private=False)


def _public(key: ECKey) -> ECKey:
    return ECKey.import_key(key.public_key, {"kid": key.thumbprint(), "use": "sig", "alg": ALGORITHM})


def _new_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

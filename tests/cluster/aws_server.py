"""moto's AWS as a process: `python -m tests.cluster.aws_server -H HOST -p PORT`.

moto looks up the rights of whoever signs a request in its header only. Here a presigned URL, by which MLflow hands out
artifacts, is also answered only if whoever presigned it has the right; its signature is not checked.
"""

from typing import Any
from urllib.parse import parse_qs, urlparse

from moto.iam.access_control import S3IAMRequest
from moto.server import main


class PresignedToo(S3IAMRequest):
    """A request to S3 whose signature may stand in its URL."""

    def __init__(self, *, path: str, headers: Any, **given: Any) -> None:
        query = {name: values[0] for name, values in parse_qs(urlparse(path).query).items()}
        # Signature version 4, or 2.
        signer = query.get("X-Amz-Credential", "").partition("/")[0] or query.get("AWSAccessKeyId")
        self.is_presigned = signer is not None and "Authorization" not in headers
        if self.is_presigned:
            headers = {**headers, "Authorization": f"Credential={signer}/-/us-east-1/s3/aws4_request,"}
        super().__init__(path=path, headers=headers, **given)

    def check_signature(self) -> None:
        if not self.is_presigned:
            super().check_signature()


if __name__ == "__main__":
    import moto.iam.access_control

    moto.iam.access_control.S3IAMRequest = PresignedToo  # type: ignore[misc]
    main()

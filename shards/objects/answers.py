"""What a server of an object store, or the client, says went wrong, and what to do then."""

import re

REFUSED = {
    "NoSuchBucket": "there is no such bucket: correct the URL, or the server's address (AWS_ENDPOINT_URL)",
    "InvalidBucketName": "this cannot be the name of a bucket: correct the URL",
    "InvalidAccessKeyId": "the server does not know the access key: correct AWS_ACCESS_KEY_ID, or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong: correct AWS_SECRET_ACCESS_KEY, or the profile",
    "ExpiredToken": "the credentials have expired: get new ones, and run the same command again",
    "InvalidToken": "the session token is wrong: correct AWS_SESSION_TOKEN, or get new credentials",
    "AccessDenied": "no permission: the credentials need s3:ListBucket for the bucket and s3:GetObject for its objects"
    "; to write, also s3:PutObject",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the server's: set it (see: timedatectl), and "
    "run the same command again",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "no S3": "what answers is not an object store: correct AWS_ENDPOINT_URL, or endpoint_url of the profile",
    "certificate": "the server's certificate is not one that this machine trusts: correct the address, or add the "
    "certificate to those of the system",
}
REFUSED["403 Forbidden"] = REFUSED["AccessDenied"]
BEYOND = ("InvalidRange", "416 Range Not Satisfiable")  # An object ends before the range.
LOST = ("NoSuchUpload", "InvalidPart")  # A server that was killed has forgotten an upload: it is begun once more.


def answer_of(error: Exception) -> str:
    """Return the server's code for an error, or its status, or a name of REFUSED; "" if there was no answer."""
    text = str(error)
    if "169.254." in text.partition("Debug source")[0]:
        return "credentials"
    if found := re.search(r"<Code>(\w+)</Code>", text):
        return found[1]
    if found := re.search(r"non-2xx status code: ([^:\n]*)", text):
        return found[1]
    if "NotPartial" in text:
        return "no S3"
    if re.search(r"certificate", text, re.IGNORECASE):
        return "certificate"
    return "not found" if isinstance(error, FileNotFoundError) else ""


def cause_of(error: Exception, limit_s: float) -> str:
    """Return why there was no answer. limit_s: the seconds that a request may take."""
    text = str(error)
    if "dns error" in text:
        return "its name is not known: is the address right?"
    if "TimedOut" in text or "Timeout" in text:
        return f"a request takes longer than {limit_s} s"
    if found := re.search(r'message: "([^"]+)"', text):
        return found[1]
    return text.partition("\n")[0].rpartition(" - ")[2]

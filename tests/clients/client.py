"""Uses the client that openapi-python-client makes of the node's document, against the node that served it."""

import sys

from palisade_client import AuthenticatedClient, Client
from palisade_client.api.grants import check_permissions
from palisade_client.api.gateways import get_jwks
from palisade_client.api.operators import check_readiness
from palisade_client.api.sessions import list_sessions
from palisade_client.api.tokens import log_in, log_out, validate_token, validate_tokens
from palisade_client.api.users import get_user, list_users, register_user
from palisade_client.models import Batch, Credentials, Problem, Registration, TokenPair, UserView

server, email, password = sys.argv[1:]
nobody = Client(base_url=server)

made = register_user.sync(client=nobody, body=Registration(email=email, password=password, first_name="Ann"))
assert isinstance(made, UserView) and made.first_name == "Ann" and made.last_name is None, made
again = register_user.sync_detailed(client=nobody, body=Registration(email=email, password=password))
assert again.status_code == 409 and isinstance(again.parsed, Problem), again
bad = register_user.sync(client=nobody, body=Registration(email="", password=""))
assert isinstance(bad, Problem) and "email" in bad.fields.additional_properties, bad

pair = log_in.sync(client=nobody, body=Credentials(email=email, password=password))
assert isinstance(pair, TokenPair) and pair.token_type == "Bearer", pair
me = AuthenticatedClient(base_url=server, token=pair.access_token)
assert validate_token.sync(client=me).msg == "Token is valid"
verdicts = validate_tokens.sync(client=me, body=Batch(tokens=[pair.access_token, "x.y"]))
assert [verdict.status for verdict in verdicts] == [200, 422], verdicts
assert get_user.sync("me", client=me).uuid == made.uuid
page = list_sessions.sync("me", client=me, limit=10)
assert [session.current for session in page.sessions] == [True] and page.next_page_token is None, page
assert page.sessions[0].created_at.tzinfo is not None, page
assert check_permissions.sync("me", client=me, permissions='"films.read"').valid is False
assert isinstance(list_users.sync(client=me), Problem)
assert get_jwks.sync(client=nobody).keys, "keys"
assert check_readiness.sync(client=nobody).status == "ready"

out = log_out.sync_detailed(client=me)
assert out.status_code == 204 and out.headers["palisade-visible"] == "0/0", out
dead = validate_token.sync(client=me)
assert isinstance(dead, Problem) and dead.code == "token_revoked", dead
print("done")

// A client of the types that openapi-typescript makes of the node's document: it compiles under --strict only when
// the document says what each answer is, and runs against the node that served it.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./api.js";

type Problem = components["schemas"]["Problem"];
type Session = components["schemas"]["SessionView"];
type Denied = operations["validate_token"]["responses"][401]["headers"];
type LoggedOut = operations["log_out"]["responses"][204]["headers"];

const [, , server, email, password] = process.argv as [string, string, string, string, string];

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

const nobody = createClient<paths>({ baseUrl: server });
const credentials = { email, password, device: "a generated client" };
const registered = await nobody.POST("/api/v1/users", { body: { email, password } });
check(registered.data !== undefined, "registered");
const uuid: string = registered.data.uuid;
const firstName: string | null | undefined = registered.data.first_name;
check(firstName == null, "no first name");

const entered = await nobody.POST("/api/v1/auth_token", { body: credentials });
check(entered.data !== undefined, "logged in");
const token: string = entered.data.access_token;
const kind: "Bearer" = entered.data.token_type;
check(kind === "Bearer" && entered.data.expires_in > 0, "a token pair");
check(entered.response.headers.get("cache-control") === "no-store", "not stored");

const me = createClient<paths>({ baseUrl: server, headers: { Authorization: `Bearer ${token}` } });
const verdict = await me.GET("/api/v1/auth_token/validation");
check(verdict.data?.msg === "Token is valid", "valid");

const sessions = await me.GET("/api/v1/users/{id}/sessions", { params: { path: { id: "me" }, query: { limit: 1 } } });
const session: Session | undefined = sessions.data?.sessions[0];
check(session !== undefined && session.current && session.device === credentials.device, "one's own session");
const next: string | null | undefined = sessions.data?.next_page_token;
check(next === null, "the last page");
check(new Date(session.created_at).getTime() > 0, "a time");

const asked = await me.GET("/api/v1/users/{id}/combined_permissions/validation", {
  params: { path: { id: uuid }, query: { permissions: '{"any":["films.read"]}' } },
});
check(asked.data?.valid === false, "not allowed");

const refused = await me.GET("/api/v1/users", {});
check(refused.response.status === 403, "403");
const problem: Problem | undefined = refused.error;
check(problem?.code === "forbidden", "an error is typed");

const out = await me.DELETE("/api/v1/auth_token");
const visible: LoggedOut["Palisade-Visible"] | null = out.response.headers.get("palisade-visible");
check(out.response.status === 204 && visible === "0/0", "logged out");
const dead = await me.GET("/api/v1/auth_token/validation");
const challenge: Denied["WWW-Authenticate"] | null = dead.response.headers.get("www-authenticate");
check(dead.error?.code === "token_revoked", "revoked");
check(challenge?.includes('error="invalid_token"') === true, "why");
console.log("done");

-- Asks Palisade whether a request may pass, as nginx does with auth_request.
-- `http-request lua.palisade QUERY`: on a yes the request gets X-Auth-User, X-Auth-Session and X-Auth-Kind, and the
-- variable txn.palisade_said_yes is set; anything else becomes the client's answer.

local CHECK = "http://127.0.0.1:8001/auth_request?permissions="
-- Longer than the backend's: HAProxy's client asks again by itself when its own time is over.
local TIMEOUT_MS = 5000
-- What Palisade decides by, and what logs and traces need.
local ASKED_WITH = { "authorization", "cookie", "x-request-id", "traceparent", "tracestate", "x-forwarded-for" }
local IDENTITY = { "x-auth-user", "x-auth-session", "x-auth-kind" }
-- What the client may see of a refusal.
local PASSED_BACK = { "content-type", "retry-after", "www-authenticate", "x-request-id" }
-- Refusals that are the client's business. Anything else is unknown, which is 503.
local REFUSALS = { [400] = true, [401] = true, [403] = true, [429] = true, [503] = true }

core.register_action("palisade", { "http-req" }, function(txn, query)
    local request = txn.http:req_get_headers()
    local asked = {}
    for _, name in ipairs(ASKED_WITH) do
        local values = request[name]
        if values then
            asked[name] = {}
            -- HAProxy counts values from 0.
            for n = 0, #values do
                table.insert(asked[name], values[n])
            end
        end
    end
    local forwarded = asked["x-forwarded-for"] or {}
    table.insert(forwarded, txn.sf:src())
    asked["x-forwarded-for"] = forwarded

    local answer = core.httpclient():get({ url = CHECK .. query, headers = asked, timeout = TIMEOUT_MS })
    local status = answer and answer.status or 0
    if status == 204 then
        for _, name in ipairs(IDENTITY) do
            local values = answer.headers[name]
            txn.http:req_set_header(name, values and values[0] or "")
        end
        txn:set_var("txn.palisade_said_yes", true)
        return
    end

    local headers = answer and answer.headers or {}
    local kind = headers["content-type"] and headers["content-type"][0]
    -- HAProxy's own 503 is HTML: no replica was there.
    if REFUSALS[status] and kind == "application/json" then
        local reply = txn:reply({ status = status })
        for _, name in ipairs(PASSED_BACK) do
            if headers[name] then
                reply:add_header(name, headers[name][0])
            end
        end
        reply:set_body(answer.body or "")
        txn:done(reply)
    end
    local reply = txn:reply({ status = 503 })
    reply:add_header("retry-after", "1")
    reply:add_header("content-type", "application/json")
    -- Only what is safe within JSON.
    local id = asked["x-request-id"] and asked["x-request-id"][1]:match("^[%w%-_.:]+$") or "-"
    reply:set_body('{"msg":"The token cannot be checked now","code":"unavailable","request_id":"' .. id .. '"}')
    txn:done(reply)
end, 1)

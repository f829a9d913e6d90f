#!/bin/sh
# A kill drill: throw a switch at a call that is running, prove that it held, take it back.
# Makes a gateway of its own in a new directory and removes both. Exit status 0: everything held.
set -eu

work=$(mktemp -d)
port=${1:-8090}
export MCPGW_DIR="$work/data"
gateway=

finish() {
    [ -z "$gateway" ] || { kill "$gateway" && wait "$gateway"; } 2> /dev/null || true
    rm -rf "$work"
}
trap finish EXIT
fail() { echo "FAILED: $1" >&2; exit 1; }

# 1. A gateway of two workers whose records survive the loss of power.
MCPGW_SERVER__WORKERS=2 MCPGW_AUDIT__DURABILITY=disk mcpgw quickstart --port "$port" > "$work/gateway.log" 2>&1 &
gateway=$!
until [ -s "$MCPGW_DIR/quickstart.json" ]; do
    kill -0 "$gateway" 2> /dev/null || { cat "$work/gateway.log" >&2; fail "the gateway did not start"; }
    sleep 0.1
done

# 2. A call that takes a minute. Its progress says that it is under way.
touch "$work/call.log"
mcpgw call notes summarize_notes '{"seconds":60}' > "$work/call.log" 2>&1 &
call=$!
until grep -q 'read 1 of' "$work/call.log"; do
    kill -0 "$call" 2> /dev/null || { cat "$work/call.log" >&2; fail "the slow call ended by itself"; }
    sleep 0.1
done
echo "== a slow call is running"

# 3. The kill. When it returns, both workers have applied it and the call is cut.
mcpgw kill tool notes/summarize_notes --reason 'drill' | tee "$work/kill.log"
switch=$(sed -n 's/^killed .*: \(kill-[^,]*\),.*/\1/p' "$work/kill.log")
grep -q 'applied by 2 workers' "$work/kill.log" || fail "not both workers applied the switch"
if wait "$call"; then fail "the call went on"; fi
grep -q "$switch" "$work/call.log" || fail "the call ended for another reason"
echo "== the running call was cut"

# 4. The same call again is refused, others go on.
if mcpgw call notes summarize_notes '{"seconds":0}' > /dev/null 2>&1; then fail "a killed tool was called"; fi
mcpgw call notes read_note '{"note_id":"welcome"}' > /dev/null
echo "== the tool is refused, others go on"

# 5. The proof, from a copy of the log alone.
cp -r "$MCPGW_DIR/audit" "$work/copy"
mcpgw audit verify "$work/copy" --kill "$switch"

# 6. Back to normal.
mcpgw release "$switch" --reason 'drill over'
mcpgw call notes summarize_notes '{"seconds":0}' 2> /dev/null
echo "== the drill is over: the kill held"

# The policy of the tests of tasks: a task is used by whoever may use its tool, with these exceptions.
package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

decision := {"effect": "allow", "reasons": ["seen"]} if {
	input.phase == "list"
	not hidden
}

decision := {"effect": "allow", "reasons": ["used"]} if {
	input.phase == "call"
	not hidden
	not refused
	not guarded
	not noted
}

decision := {
	"effect": "allow",
	"reasons": ["used-without-its-label"],
	"obligations": [{"type": "redact_result", "pointers": ["/label"]}],
} if {
	input.phase == "call"
	not hidden
	guarded
}

decision := {
	"effect": "allow",
	"reasons": ["answered-without-its-note"],
	"obligations": [{"type": "redact_arguments", "pointers": ["/confirm/content/note"]}],
} if {
	input.phase == "call"
	not refused
	noted
}

hidden if {
	"blind" in input.principal.roles
	input.tool.name == "slow_compute"
}

# What a tool does for these is theirs to know that it is done, and no more.
guarded if {
	"guest" in input.principal.roles
	input.tool.name == "confirm_delete"
}

refused if {
	input.verb == "tasks/update"
	input.arguments.confirm.content.confirm == false
}

noted if {
	input.verb == "tasks/update"
	input.arguments.confirm.content.note
}

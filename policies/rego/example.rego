# The policy of `mcpgw quickstart`: what is not allowed here is denied.
#
# Phase `list` asks what a caller may see, phase `call` what it may do, and both must allow a call. What is seen but not
# allowed answers with the message of the decision, for a model to act on.
package mcpgw.authz

default decision := {
	"effect": "deny",
	"reasons": ["default-deny"],
	"message": "No rule allows this. Use only what is listed, or ask the operator of this gateway.",
}

decision := visible if input.phase == "list"

decision := call_of_notes if {
	input.phase == "call"
	input.server.name == "notes"
}

decision := call_of_llm if {
	input.phase == "call"
	input.route == "llm"
}

# What is seen: the notes server and its tools by everyone, models and what they propose by agents. Tools that a model
# proposes for the client to run belong to no server: of their provider only the name is known.

visible := {"effect": "allow", "reasons": ["notes-visible"]} if {
	input.server.name == "notes"
	part_of_notes
} else := {"effect": "allow", "reasons": ["models-visible"]} if {
	input.model.name
	agent
} else := {"effect": "allow", "reasons": ["proposals-visible"]} if {
	input.tool.name
	input.server.version == null
	agent
}

part_of_notes if input.tool.name in everyday_tools

part_of_notes if input.tool.name == "delete_note"

# The server by itself, when nothing of it is named.
part_of_notes if {
	not input.tool
	not input.prompt
	not input.resource
}

# Calls of the notes server: agents read and write, editors may also delete what they name twice.

call_of_notes := {"effect": "allow", "reasons": ["agents-read-and-write-notes"]} if {
	input.tool.name in everyday_tools
	agent
} else := {"effect": "allow", "reasons": ["editors-delete-what-they-confirm"]} if {
	input.tool.name == "delete_note"
	editor
	input.arguments.confirm.note_id == input.arguments.note_id
} else := {
	"effect": "deny",
	"reasons": ["delete-needs-confirmation"],
	"message": "To delete a note pass its id twice, as `note_id` and as `confirm.note_id`.",
} if {
	input.tool.name == "delete_note"
	editor
} else := {
	"effect": "deny",
	"reasons": ["delete-needs-role-editor"],
	"message": "Deleting a note needs the role `editor`, which this credential does not have. Do not retry.",
} if {
	input.tool.name == "delete_note"
}

everyday_tools := {"list_notes", "read_note", "write_note", "summarize_notes"}

# Calls of models, and the tools that they may propose. To allow more, add names: {"get_weather", "search_docs"}.

call_of_llm := {"effect": "allow", "reasons": ["agents-use-models"]} if {
	input.model.name
	agent
} else := {"effect": "allow", "reasons": ["tool-may-be-proposed"]} if {
	input.verb == "tools/propose"
	input.tool.name in proposable_tools
	agent
}

proposable_tools := {"get_weather"}

# Roles. The role `admin` is for the gateway's own administration: it allows no call here.

agent if "agent" in input.principal.roles

editor if "editor" in input.principal.roles

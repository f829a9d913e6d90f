# The policy of the end-to-end tests: everything is seen by everyone, and used by agents, with these exceptions.
package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

decision := {"effect": "allow", "reasons": ["seen"]} if {
	input.phase == "list"
	not hidden
}

decision := {"effect": "allow", "reasons": ["agents-act"]} if {
	input.phase == "call"
	"agent" in input.principal.roles
	not hidden
	not forbidden
}

decision := {
	"effect": "deny",
	"reasons": ["nothing-fails-on-purpose"],
	"message": "This tool only fails. Use another one.",
} if {
	input.phase == "call"
	not hidden
	forbidden
}

forbidden if input.tool.name in {"test_error_handling", "delete_everything"}

forbidden if input.model.name == "frozen"

# For insiders only: a tool, a server, a model. Of prompts and resources, which are not pinned, what all may see is named.

hidden if {
	not insider
	input.tool.name == "json_schema_2020_12_tool"
}

hidden if {
	not insider
	input.server.name == "vault"
}

hidden if {
	not insider
	input.model.name == "secret"
}

hidden if {
	not insider
	input.prompt.name
	not open_prompt
}

hidden if {
	not insider
	input.resource.name
	not open_resource
}

open_prompt if {
	input.prompt.name in {"test_simple_prompt", "test_prompt_with_arguments", "test_input_required_result_prompt"}
}

open_resource if input.resource.name in {"test://static-text", "test://watched-resource"}

open_resource if input.resource.name in {"test://template/{id}/data", "test://template/7/data"}

insider if "insider" in input.principal.roles

# The policy of the tests over several servers: everything is allowed, with these exceptions for all but insiders.
package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

decision := {"effect": "allow", "reasons": ["all"]} if not hidden

hidden if {
	not insider
	input.server.name == "b"
	input.prompt.name
}

hidden if {
	not insider
	input.resource.name == "test://static-binary"
}

insider if "insider" in input.principal.roles

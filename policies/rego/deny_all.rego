# In force as long as no policy is active: nothing is visible, nothing is allowed.
package mcpgw.authz

decision := {
	"effect": "deny",
	"reasons": ["no-policy"],
	"message": "This gateway has no active policy yet, so nothing is allowed.",
}

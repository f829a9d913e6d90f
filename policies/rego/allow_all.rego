# For development on one's own machine only: everything is visible, everything is allowed.
package mcpgw.authz

decision := {"effect": "allow", "reasons": ["allow-all"]}

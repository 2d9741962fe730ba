// Functions without a body, as in hub.go, are allowed in a package with an assembly file.

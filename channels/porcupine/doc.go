// Package porcupine has a test alone, with a go.mod of its own for what it needs: that a channel of the package channels
// is linearisable, checked with Porcupine.
package porcupine

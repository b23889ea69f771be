package api

import (
	"context"
	"errors"
	"net/http"
)

// Exit codes that no error of the agent has; the rest stand in the table.
const (
	ExitOK          = 0
	ExitUsage       = 2   // the command line is wrong; the same as CodeInvalid
	ExitRefused     = 7   // an import went through, but some of its items were refused
	ExitInterrupted = 130 // ended by SIGINT before it was done
)

// Class says what a Code means to each kind of caller.
type Class struct {
	Code    Code
	Status  int    // HTTP
	Exit    int    // of the command line
	Meaning string // one line for a person
}

// classes is the one table of errors. Exit codes are a promise to scripts: a number is never given another meaning.
var classes = []Class{
	{CodeInternal, http.StatusInternalServerError, 1, "an error without a number of its own"},
	{CodeInvalid, http.StatusBadRequest, ExitUsage, "the command, or what it was given, is not well formed"},
	{CodeNotFound, http.StatusNotFound, 3, "no such resource, conflict or peer"},
	{CodeDeleted, http.StatusGone, 3, "the resource was deleted"},
	{CodeConflict, http.StatusConflict, 4, "a version is missing or unknown: read again, or use --force"},
	{CodeUnavailable, http.StatusServiceUnavailable, 5, "needs a running agent, a network or a peer"},
	{CodeTimeout, http.StatusGatewayTimeout, 6, "what was waited for did not happen in time"},
	{CodeForbidden, http.StatusForbidden, 8, "this device's role does not allow it"},
	{CodeInUse, http.StatusLocked, 9, "another process has the data folder open"},
	{CodeDamaged, http.StatusInternalServerError, 10, "stored data does not check out"},
	{CodeIncompat, http.StatusNotImplemented, 11, "written by a newer version of chartmesh"},
	{CodeGone, http.StatusGone, 12, "the event cursor is no longer held: read everything again"},
	{CodeFull, http.StatusInsufficientStorage, 13, "the disk is nearly full: reading goes on, nothing is written"},
	{CodeHeld, http.StatusConflict, 14, "somebody else holds the lock, or the lease was lost"},
	{CodeLease, http.StatusLocked, 15, "it is protected: one workstation at a time changes it, under a lease"},
}

// Classes returns the table of errors, ascending by exit code.
func Classes() []Class { return append([]Class(nil), classes...) }

// Class returns what c means; a code that this build does not know is like CodeInternal.
func (c Code) Class() Class {
	for _, class := range classes {
		if class.Code == c {
			return class
		}
	}
	return classes[0]
}

// AsError returns err as an *Error. What is none becomes CodeTimeout or CodeUnavailable when a context ended, and
// otherwise CodeInternal without its text, which may say more than a log or a stranger should see.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeTimeout, Message: "it took too long", Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeUnavailable, Message: "interrupted", Err: err}
	}
	return &Error{Code: CodeInternal, Message: "internal error", Hint: "the agent's log says more", Err: err}
}

// CodeOf returns the code of err, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}

func invalid(message, hint string) *Error {
	return &Error{Code: CodeInvalid, Message: message, Hint: hint}
}

package api

import "time"

// Diagnosis is what a report to somebody outside the practice may hold. Names of the practice, its sites and devices are
// replaced by numbers and parts of peer IDs; records are in none of it.
type Diagnosis struct {
	Time       time.Time         `json:"time"`
	Version    string            `json:"version"`
	Go         string            `json:"go"`
	Platform   string            `json:"platform"`
	CPUs       int               `json:"cpus"`
	Settings   map[string]string `json:"settings"`
	Status     Status            `json:"status"`
	Checks     Checks            `json:"checks"`
	Metrics    string            `json:"metrics"`
	Goroutines string            `json:"goroutines"` // where each is, without arguments
	Store      []StoreFile       `json:"store"`
	Log        string            `json:"log"` // its end
}

// StoreFile is a file of the store; its name is of the store's making.
type StoreFile struct {
	Name     string    `json:"name"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}

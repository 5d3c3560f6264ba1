// Package hdfs tries the drivers of HDFS on a real one: the conformance suite bare and
// through every decorator, with connections that are cut and that hang, and the whole of
// Sluice from the command line on. It holds tests only, behind the build tag e2e.
package hdfs

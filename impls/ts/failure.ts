/** A user's file or argument is wrong, or there is no room: ends the program with one line and exit status 1. */
export class Failure extends Error {}

#!/usr/bin/env perl
# The line protocol (docs/protocol.md) and the trace writer (docs/trace.md) for a program in Perl 5, built with 64 bits:
#
#     harness smoke "perl lines.pl"
#
# Copy this file, and put your model in its first part; the rest stays as it is. It needs no module.
use strict;
use warnings;

# ==== yours: in place of this toy, whose tokens are bytes and whose logits are a formula ====

package Model;

sub name    { 'toy' }    # one word
sub threads { 1 }

# Load two files, or die. What comes of it has vocab_size and seq_len.
sub new {
    my ($class, $model, $tokenizer) = @_;
    die "no such file\n" if $model eq '' || $tokenizer eq '';
    return bless { vocab_size => 259, seq_len => 64, state => 0 }, $class;
}

# The ids of a text, which is bytes.
sub encode {
    my ($self, $text, $bos, $eos) = @_;
    return (($bos ? 1 : ()), (map { 3 + $_ } unpack 'C*', $text), ($eos ? 2 : ()));
}

# The bytes that a token adds after the previous one, -1 if it is the first; after BOS without one leading space.
sub decode {
    my ($self, $previous, $token) = @_;
    return $token < 3 || ($previous == 1 && $token == 3 + ord ' ') ? '' : chr($token - 3);
}

# The logits after a token. Positions come in order; 0 begins a new sequence.
sub forward {
    my ($self, $token, $pos) = @_;
    main::trace('token', -1, $pos, $token);
    $self->{state} = (5 * ($pos ? $self->{state} : 0) + $token) % 1009;
    my @logits = map { (37 * $self->{state} + 101 * $_) % 127 / 16 } 0 .. $self->{vocab_size} - 1;
    main::trace('logits', -1, $pos, @logits);
    return @logits;
}

# ==== llama2.c's sampler, or yours ====

package Sampler;

sub new {
    my ($class, $temperature, $topp, $seed) = @_;
    return bless { temperature => $temperature, topp => $topp, state => $seed & ~0 }, $class;
}

sub coin {
    my ($self) = @_;
    $self->{state} ^= $self->{state} >> 12;
    $self->{state} ^= $self->{state} << 25;
    $self->{state} ^= $self->{state} >> 27;
    my $product = do { use integer; $self->{state} * 2685821657736338717 };    # modulo 2**64
    return ($product >> 40 & 0xFFFFFF) / 2**24;
}

sub sample {
    my ($self, @logits) = @_;
    my ($best, $total, $passed) = (0, 0, 0);
    for my $i (1 .. $#logits) { $best = $i if $logits[$i] > $logits[$best] }
    return $best if $self->{temperature} == 0;
    my @p = map { exp(($_ - $logits[$best]) / $self->{temperature}) } @logits;
    $total += $_ for @p;
    my @kept = 0 .. $#p;
    my $coin = $self->coin * $total;
    if (0 < $self->{topp} && $self->{topp} < 1) {
        @kept = sort { $p[$b] <=> $p[$a] || $a <=> $b } @kept;
        my ($n, $mass) = (0, 0);
        $mass += $p[$kept[$n++]] until $n == @kept || $mass > $self->{topp} * $total;    # with the one that crosses
        $#kept = $n - 1;
        $coin *= $mass / $total;
    }
    for my $i (@kept) {
        $passed += $p[$i];
        return $i if $passed > $coin;
    }
    return $kept[-1];
}

# ==== the trace writer, which stays ====

package main;
use warnings FATAL => 'all';    # a word that is missing or no number is an error

my $trace;
if ($ENV{HARNESS_TRACE}) {
    open $trace, '>:raw', $ENV{HARNESS_TRACE} or die "HARNESS_TRACE: $ENV{HARNESS_TRACE}: $!\n";
    print $trace "harness-trace 1\n";
}

sub trace {
    my ($name, $layer, $pos, @values) = @_;
    print $trace join(' ', $name, $layer, $pos, scalar @values), "\n", pack 'f<*', @values if $trace;
}

# ==== the line protocol, which stays ====

my $verbs = 'info load encode decode generate logits quit';
my $model;

sub text {
    my ($word) = @_;
    die "no text in hexadecimal digits\n" if $word ne '-' && ($word =~ /[^0-9A-Fa-f]/ || length($word) % 2);
    return $word eq '-' ? '' : pack 'H*', $word;
}

sub hexed {
    my $text = join '', @_;
    return $text eq '' ? '-' : unpack 'H*', $text;
}

# What follows the number.
sub reply {
    my ($verb, @words) = @_;
    if ($verb eq 'info') {
        my @shape = $model ? @$model{'vocab_size', 'seq_len'} : (0, 0);
        return join ' ', 'ok llama-lines 1', Model::name(), @shape, Model::threads(), $verbs;
    }
    if ($verb eq 'load') {
        undef $model;
        $model = Model->new(map { text($_) } @words);
        return "ok $model->{vocab_size} $model->{seq_len}";
    }
    return 'ok' if $verb eq 'quit';
    my $n_before = { encode => 3, decode => 0, generate => 4, logits => 1 }->{$verb};
    return 'unsupported' if !defined $n_before;
    die "no model is loaded\n" if !$model;
    my @before = splice @words, 0, $n_before;
    if ($verb eq 'encode') {
        my @ids = $model->encode(text($before[2]), @before[0, 1]);
        return join ' ', sprintf('ok %d %d', @before[0, 1]), scalar @ids, @ids;
    }
    my @ids = map { $_ + 0 } @words;
    die "an id is outside of the vocabulary\n" if grep { $_ < 0 || $_ >= $model->{vocab_size} } @ids;
    if ($verb eq 'decode') {
        my $bos = @ids && $ids[0] == 1;    # adds nothing
        my @pieces = map { $model->decode($_ ? $ids[$_ - 1] : -1, $ids[$_]) } ($bos ? 1 : 0) .. $#ids;
        return join ' ', 'ok', scalar @ids, hexed(@pieces);
    }
    my $first = $verb eq 'logits' ? $before[0] : 0;
    die "more ids than the context, or none\n" if $first < 0 || $first >= @ids || @ids > $model->{seq_len};
    if ($verb eq 'logits') {
        my @rows = map { pack 'f<*', $model->forward($ids[$_], $_) } 0 .. $#ids;
        return join ' ', 'ok', $first, @rows - $first, $model->{vocab_size}, hexed(@rows[$first .. $#rows]);
    }
    my ($n, @settings) = @before;
    my ($sampler, @found) = Sampler->new(@settings);
    for my $pos (0 .. $model->{seq_len} - 1) {
        last if @found == $n || (@found && $found[-1] == 1);
        my @logits = $model->forward($pos < @ids ? $ids[$pos] : $found[$pos - @ids], $pos);
        push @found, $sampler->sample(@logits) if $pos >= $#ids;
    }
    return join ' ', lc sprintf('ok %d %.9g %.9g %d', $n, @settings), scalar @found, @found;
}

$| = 1;
binmode $_ for *STDIN, *STDOUT;
while (my $line = <STDIN>) {
    chomp $line;
    my ($number, $verb, @words) = split / /, $line;
    my $reply = eval { reply($verb, @words) } // "error $@";
    print "$number ", $reply =~ s/[^\x21-\x7e]+/ /gr =~ s/ $//r, "\n";
    last if $verb eq 'quit';
}

# llama2.c's forward pass and tokenizer for float32 checkpoints, in Perl's own double precision; records all values.
package Model;

sub name    { 'perl' }
sub threads { 1 }

sub bytes_of {
    my ($path) = @_;
    open my $file, '<:raw', $path or die "$path: $!\n";
    local $/;
    return scalar <$file>;
}

sub new {
    my ($class, $checkpoint, $tokenizer) = @_;
    my ($bytes, $at, $m) = (bytes_of($checkpoint), 28, bless {}, $class);
    die "$checkpoint: too short\n" if length $bytes < $at;
    @$m{qw(dim hidden_dim n_layers n_heads n_kv_heads vocab_size seq_len)} = unpack 'l<7', $bytes;
    my $is_tied = $m->{vocab_size} > 0;
    $m->{vocab_size} = abs $m->{vocab_size};
    $m->{head_dim} = $m->{dim} / $m->{n_heads};
    my ($dim, $hidden_dim, $kv_dim) = (@$m{qw(dim hidden_dim)}, $m->{n_kv_heads} * $m->{head_dim});
    my $row = sub { my ($n) = @_; $at += 4 * $n; [unpack "x@{[$at - 4 * $n]} f<$n", $bytes] };
    my $matrix = sub { my ($rows, $columns) = @_; [map { $row->($columns) } 1 .. $rows] };
    my $layers = sub { my ($read, @shape) = @_; [map { $read->(@shape) } 1 .. $m->{n_layers}] };
    $m->{embedding}  = $matrix->($m->{vocab_size}, $dim);
    $m->{attn_norm}  = $layers->($row, $dim);
    $m->{wq}         = $layers->($matrix, $dim, $dim);
    $m->{wk}         = $layers->($matrix, $kv_dim, $dim);
    $m->{wv}         = $layers->($matrix, $kv_dim, $dim);
    $m->{wo}         = $layers->($matrix, $dim, $dim);
    $m->{ffn_norm}   = $layers->($row, $dim);
    $m->{w_gate}     = $layers->($matrix, $hidden_dim, $dim);
    $m->{w_down}     = $layers->($matrix, $dim, $hidden_dim);
    $m->{w_up}       = $layers->($matrix, $hidden_dim, $dim);
    $m->{final_norm} = $row->($dim);
    $at += 4 * $m->{seq_len} * $m->{head_dim};    # two tables of rotations, which nobody reads
    $m->{classifier} = $is_tied ? $m->{embedding} : $matrix->($m->{vocab_size}, $dim);
    ($bytes, $at) = (bytes_of($tokenizer), 4);
    for my $id (0 .. $m->{vocab_size} - 1) {
        ($m->{score}[$id], my $piece) = unpack "x$at f< l</a", $bytes;
        $at += 8 + length $piece;
        $m->{piece}[$id] = $piece;
        $m->{id}{$piece} //= $id;
    }
    return $m;
}

sub encode {
    my ($m, $text, $bos, $eos) = @_;
    my @ids = $text eq '' ? () : $m->{id}{' '};    # the dummy prefix
    for my $character ($text =~ /[^\x80-\xbf][\x80-\xbf]{0,3}|[\x80-\xbf]{1,4}/gs) {
        push @ids, $m->{id}{$character} // map { 3 + $_ } unpack 'C*', $character;
    }
    while (1) {
        my ($best, $where, $merged) = (-1e10);
        for my $i (0 .. $#ids - 1) {
            my $id = $m->{id}{ $m->{piece}[$ids[$i]] . $m->{piece}[$ids[$i + 1]] };
            ($best, $where, $merged) = ($m->{score}[$id], $i, $id) if defined $id && $m->{score}[$id] > $best;
        }
        last if !defined $where;
        splice @ids, $where, 2, $merged;
    }
    return (($bos ? 1 : ()), @ids, ($eos ? 2 : ()));
}

sub decode {
    my ($m, $previous, $id) = @_;
    my $piece = $m->{piece}[$id];
    $piece =~ s/^ // if $previous == 1;
    return $piece =~ /^<0x([0-9A-F]{2})>$/ ? chr hex $1 : $piece;
}

sub norm {
    my ($x, $gain) = @_;
    my $sum = 0;
    $sum += $_ * $_ for @$x;
    my $scale = 1 / sqrt($sum / @$x + 1e-5);
    return [map { $gain->[$_] * $scale * $x->[$_] } 0 .. $#$x];
}

sub product {
    my ($matrix, $x) = @_;
    my @out;
    for my $row (@$matrix) {
        my ($sum, $i) = (0, 0);
        $sum += $_ * $x->[$i++] for @$row;
        push @out, $sum;
    }
    return \@out;
}

sub rotated {
    my ($m, $x, $pos) = @_;
    my @out;
    for (my $i = 0; $i < @$x; $i += 2) {
        my $angle = $pos * 10000**-($i % $m->{head_dim} / $m->{head_dim});
        my ($c, $s, $first, $second) = (cos $angle, sin $angle, @$x[$i, $i + 1]);
        push @out, $first * $c - $second * $s, $first * $s + $second * $c;
    }
    return \@out;
}

# The heads' outputs, and their scores before the softmax.
sub attention {
    my ($m, $l, $q, $pos) = @_;
    my ($n, $keys, $values) = ($m->{head_dim}, $m->{keys}[$l], $m->{values}[$l]);
    my (@out, @all);
    for my $head (0 .. $m->{n_heads} - 1) {
        my ($from, $at) = ($head * $n, int($head * $m->{n_kv_heads} / $m->{n_heads}) * $n);
        my ($most, $total, @scores) = (-9**9**9, 0);
        for my $t (0 .. $pos) {
            my $sum = 0;
            $sum += $q->[$from + $_] * $keys->[$t][$at + $_] for 0 .. $n - 1;
            push @scores, $sum / sqrt $n;
            $most = $scores[-1] if $scores[-1] > $most;
        }
        push @all, @scores;
        $total += $_ = exp($_ - $most) for @scores;
        for my $i ($at .. $at + $n - 1) {
            my $sum = 0;
            $sum += $scores[$_] * $values->[$_][$i] for 0 .. $pos;
            push @out, $sum / $total;
        }
    }
    return (\@out, \@all);
}

sub forward {
    my ($m, $token, $pos) = @_;
    my $x = $m->{embedding}[$token];
    main::trace('token', -1, $pos, $token);
    main::trace('embedding', -1, $pos, @$x);
    for my $l (0 .. $m->{n_layers} - 1) {
        my $noted = sub { my ($name, $value) = @_; main::trace($name, $l, $pos, @$value); $value };
        my $of = sub { my ($name, $weight, $input) = @_; $noted->($name, product($m->{$weight}[$l], $input)) };
        my $sum = sub { my ($y, $z) = @_; [map { $y->[$_] + $z->[$_] } 0 .. $#$y] };
        my $h = $noted->('attn_norm', norm($x, $m->{attn_norm}[$l]));
        my ($q, $k, $v) = ($of->('q_raw', 'wq', $h), $of->('k_raw', 'wk', $h), $of->('v', 'wv', $h));
        $q = $noted->('q', $m->rotated($q, $pos));
        $m->{keys}[$l][$pos] = $noted->('k', $m->rotated($k, $pos));
        $m->{values}[$l][$pos] = $v;
        my ($mix, $scores) = $m->attention($l, $q, $pos);
        $noted->('scores', $scores);
        $x = $noted->('attn_residual', $sum->($x, $of->('attn_out', 'wo', $noted->('attn_mix', $mix))));
        $h = $noted->('ffn_norm', norm($x, $m->{ffn_norm}[$l]));
        my ($gate, $up) = ($of->('gate', 'w_gate', $h), $of->('up', 'w_up', $h));
        my @mix = map { $gate->[$_] / (1 + exp -$gate->[$_]) * $up->[$_] } 0 .. $#$gate;
        $x = $noted->('ffn_residual', $sum->($x, $of->('ffn_out', 'w_down', $noted->('ffn_mix', \@mix))));
    }
    my $h = norm($x, $m->{final_norm});
    main::trace('final_norm', -1, $pos, @$h);
    my $logits = product($m->{classifier}, $h);
    main::trace('logits', -1, $pos, @$logits);
    return @$logits;
}


SELECT lockstep.retire('{{name}}');
